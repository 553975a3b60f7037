"""Images drawn from a seed: no files, no licence, the same pixels on every machine."""

from shared.data.embedded.draw import SPLITS, embedded_images
from shared.data.embedded.recipes import MAX_CLASSES, Recipe, class_recipe
from shared.data.embedded.scenes import DOMAINS

__all__ = ["DOMAINS", "MAX_CLASSES", "SPLITS", "Recipe", "class_recipe", "embedded_images"]
