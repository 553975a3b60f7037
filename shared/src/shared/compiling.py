"""Whether `torch.compile` works on a device."""

import torch

from shared.errors import UserError, one_line


def check_compiler(device: torch.device) -> None:
    """Compile something small.

    Args:
        device: Where.

    Raises:
        UserError: If that fails: there is no compiler, or none for this device.
    """
    try:
        torch.compile(lambda x: x.mul(2).add(1))(torch.zeros(8, device=device))
    except Exception as error:  # what a compiler may raise has no common class
        raise UserError(
            f"compile must be false where torch.compile does not work on {device.type}; got true ({one_line(error)})."
        ) from error
