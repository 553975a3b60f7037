"""Gradients by torch's own operations, where the backward pass of a kernel is asked for more than numbers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def plain_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], dy: Tensor, *, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Give the gradients of a function at saved inputs, for the backward pass of an autograd function.

    They can be differentiated again where gradients are recorded, and `dy` may be of any kind, as a batch under vmap.
    An input may depend on another one, as where a layer comes twice in a net: each gradient is that of the function
    alone, with the other inputs held.

    Args:
        function: Output of the inputs, in torch's own operations.
        inputs: Inputs as they were saved; None for those not there.
        dy: Gradient of the output.
        wanted: Whether each input's gradient is wanted.

    Returns:
        Gradients, None where not wanted.
    """
    again = torch.is_grad_enabled()
    wanted = [want and values is not None for want, values in zip(wanted, inputs)]
    with torch.enable_grad():
        # Views, since what happened before an input, where another one may have had a part, lies behind its view.
        own = [
            None if values is None else values.view_as(values) if again else values.detach().requires_grad_(want)
            for values, want in zip(inputs, wanted)
        ]
        y = function(*own)
        chosen = [values for values, want in zip(own, wanted) if want and values is not None]
        gradients = iter(torch.autograd.grad(y, chosen, dy, create_graph=again))
    return [next(gradients) if want else None for want in wanted]
