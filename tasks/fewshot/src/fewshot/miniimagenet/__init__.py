"""miniImageNet as it is found on disk: six layouts, checked, decoded once and mapped into memory."""

from fewshot.miniimagenet.reader import MiniImageNet, open_miniimagenet

__all__ = ["MiniImageNet", "open_miniimagenet"]
