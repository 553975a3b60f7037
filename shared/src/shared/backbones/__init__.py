"""Backbones whose norm layers are a parameter. Importing the names alone does not import torch."""

from typing import TYPE_CHECKING, Any

from shared.backbones.names import BACKBONES, STEMS, BackboneSpec, resolve_backbone

if TYPE_CHECKING:
    from shared.backbones.build import build_backbone

__all__ = ["BACKBONES", "STEMS", "BackboneSpec", "build_backbone", "resolve_backbone"]


def __getattr__(name: str) -> Any:
    if name == "build_backbone":
        from shared.backbones.build import build_backbone

        return build_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
