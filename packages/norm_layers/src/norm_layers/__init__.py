"""BN, IN, LN, GN, PN, GBGN and Batch Group Normalization as drop-in PyTorch layers.

Names are imported on first use, so that `import norm_layers` and `norm_layers.registry` do not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from norm_layers.audit import NormAudit, audit_norms, summarise_audit
    from norm_layers.bgn import BatchGroupNorm
    from norm_layers.bn import BatchNorm
    from norm_layers.convert import convert_norm
    from norm_layers.factory import NormFactory, make_norm, norm_factory
    from norm_layers.figure import draw_norms
    from norm_layers.functional import batch_group_norm
    from norm_layers.gbgn import GeneralBatchGroupNorm
    from norm_layers.gn import GroupNorm
    from norm_layers.identity import NoNorm
    from norm_layers.instance import InstanceNorm
    from norm_layers.ln import LayerNorm
    from norm_layers.pn import PositionalNorm
    from norm_layers.registry import NORMS, NormSpec, default_num_groups, resolve_norm
    from norm_layers.statistics import (
        freeze_statistics,
        frozen_statistics,
        is_batch_statistic_norm,
        unfreeze_statistics,
    )
    from norm_layers.sync import synchronise_statistics
    from norm_layers.virtual import VirtualWorkerNorm

_MODULE_OF = {
    "NORMS": "registry",
    "BatchGroupNorm": "bgn",
    "BatchNorm": "bn",
    "GeneralBatchGroupNorm": "gbgn",
    "GroupNorm": "gn",
    "InstanceNorm": "instance",
    "LayerNorm": "ln",
    "NoNorm": "identity",
    "NormAudit": "audit",
    "NormFactory": "factory",
    "NormSpec": "registry",
    "PositionalNorm": "pn",
    "VirtualWorkerNorm": "virtual",
    "audit_norms": "audit",
    "batch_group_norm": "functional",
    "convert_norm": "convert",
    "default_num_groups": "registry",
    "draw_norms": "figure",
    "freeze_statistics": "statistics",
    "frozen_statistics": "statistics",
    "is_batch_statistic_norm": "statistics",
    "make_norm": "factory",
    "norm_factory": "factory",
    "resolve_norm": "registry",
    "summarise_audit": "audit",
    "synchronise_statistics": "sync",
    "unfreeze_statistics": "statistics",
}

__all__ = [
    "NORMS",
    "BatchGroupNorm",
    "BatchNorm",
    "GeneralBatchGroupNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "NoNorm",
    "NormAudit",
    "NormFactory",
    "NormSpec",
    "PositionalNorm",
    "VirtualWorkerNorm",
    "audit_norms",
    "batch_group_norm",
    "convert_norm",
    "default_num_groups",
    "draw_norms",
    "freeze_statistics",
    "frozen_statistics",
    "is_batch_statistic_norm",
    "make_norm",
    "norm_factory",
    "resolve_norm",
    "summarise_audit",
    "synchronise_statistics",
    "unfreeze_statistics",
]


def __getattr__(name: str) -> Any:
    """Import the module that defines `name`, on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"norm_layers.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *_MODULE_OF})
