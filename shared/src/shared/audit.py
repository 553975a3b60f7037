"""The norm audit of a run: what every norm layer averages over, at the run's batch size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from norm_layers import NormAudit, audit_norms, summarise_audit
from norm_layers.registry import NORMS
from shared.errors import UserError, one_line

MOST_CHANNELS = 1024
"""More than a layer has at the resolution of the images; a network's own layers are told apart by the audit."""


def audit_network(network: nn.Module, example_input: Tensor, *, batch_size: int, norm: str) -> dict[str, Any]:
    """Return the record's norm audit, and refuse a network that cannot train.

    Args:
        network: The network.
        example_input: A batch with one image per worker.
        batch_size: Images per worker and step.
        norm: The norm that was asked for.

    Raises:
        UserError: If the network has no layer of the norm that was asked for, a layer has more groups than values, a
            norm from outside raises, or a norm over the batch would average a single value.
        ValueError: If a norm layer cannot take its input for another reason (wrong channels).
    """
    try:
        audits = [_at_batch_size(audit, batch_size) for audit in audit_norms(network, example_input)]
    except Exception as error:  # a norm from outside may raise anything
        if (answer := _answer(error, norm=norm, shape=tuple(example_input.shape))) is None:
            raise
        raise answer from error
    found = {audit.norm for audit in audits}  # a norm from outside may be told by its base class
    if norm != "none" and (norm not in found if norm in NORMS else not found):
        raise UserError(f"norm must be in the network that trains; got {norm}, of which it has no layer.")
    for audit in audits:
        if _is_batch_norm(audit) and audit.values_per_statistic == 1:
            shape = (batch_size, audit.channels, audit.height, audit.width)
            raise UserError(
                f"each statistic of {audit.norm} must average at least 2 values; got 1 at {audit.layer}, whose input "
                f"has the shape {shape} with {audit.num_groups or audit.channels} groups. Use a larger batch_size or "
                "fewer groups."
            )
    kinds = [
        {
            "shape": [kind["channels"], kind["height"], kind["width"]],
            "count": kind["layers"],
            **{
                name: kind[name]
                for name in ("norm", "num_groups", "values_per_statistic", "straddling", "fallback", "equivalent")
            },
        }
        for kind in summarise_audit(audits)
    ]
    return {"num_layers": len(audits), "layers": kinds}


def check_num_groups(num_groups: int | None, example_input: Tensor) -> None:
    """Refuse a number of groups above all that a layer may have, before statistics of that size are made.

    Args:
        num_groups: G as given; None: not given.
        example_input: A batch of the run's images.

    Raises:
        UserError: If it is above C·H·W of a layer with `MOST_CHANNELS` channels at the images' resolution.
    """
    height, width = example_input.shape[-2:]
    if num_groups is not None and num_groups > MOST_CHANNELS * height * width:
        raise UserError(f"num_groups must be at most C·H·W of each norm's input; got {num_groups}.")


def _answer(error: Exception, *, norm: str, shape: tuple[int, ...]) -> UserError | None:
    """Return what the user is told of a failed first pass; None where the error says it, or is the suite's own."""
    if isinstance(error, ValueError) and str(error).startswith("num_groups must be at most"):
        rule = str(error).partition(". ")[0]  # what a layer advises may be an option that no task has
        return UserError(f"{rule}. Give a smaller num_groups=.")
    rule = f"norm must work in the network on images of the shape {shape}; got:"
    if norm not in NORMS:
        kind, text = type(error).__name__, one_line(error)
        told = kind if text == kind else f"{kind}: {text}"
        return UserError(f"{rule} {told} from {norm}. NORM_SUITE_TRACEBACK=1 shows where.")
    return UserError(f"{rule} {error}") if isinstance(error, (RuntimeError, TypeError)) else None


def _is_batch_norm(audit: NormAudit) -> bool:
    return audit.norm in NORMS and NORMS[audit.norm].has_running_statistics


def _at_batch_size(audit: NormAudit, batch_size: int) -> NormAudit:
    if not _is_batch_norm(audit) or audit.values_per_statistic is None:
        return replace(audit, batch_size=batch_size)
    return replace(
        audit, batch_size=batch_size, values_per_statistic=audit.values_per_statistic // audit.batch_size * batch_size
    )
