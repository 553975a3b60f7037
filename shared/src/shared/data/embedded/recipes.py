"""What makes a class: a shape, a texture, a relation of two colours and an arrangement."""

from dataclasses import dataclass

SHAPES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "heart", "hourglass", "corner")
TEXTURES = ("border", "stripes", "checks", "dots", "rings", "halves", "ramp", "blotches")
RELATIONS = ("lighter", "darker", "opposite", "third", "grey")
ARRANGEMENTS = ("single", "pair", "row", "grid", "nested", "wheel")

MAX_CLASSES = len(SHAPES) * len(TEXTURES) * len(RELATIONS) * len(ARRANGEMENTS)
# coprime to MAX_CLASSES: every class number has its own recipe, and neighbours differ in most factors
_STRIDE = 1009
_START = 77


@dataclass(frozen=True)
class Recipe:
    """What the images of one class have in common; everything else varies from image to image.

    Attributes:
        shape: One of `SHAPES`.
        texture: One of `TEXTURES`: how the two colours fill the shape.
        relation: One of `RELATIONS`: how the second colour follows from the first.
        arrangement: One of `ARRANGEMENTS`: how copies of the shape form the object.
        hue: Where the first colour's hue is most often found, in [0, 1); single images stray far from it.
    """

    shape: str
    texture: str
    relation: str
    arrangement: str
    hue: float

    @property
    def name(self) -> str:
        """Class name, for instance ``"row of star, stripes, darker"``."""
        return f"{self.arrangement} of {self.shape}, {self.texture}, {self.relation}"


def class_recipe(number: int) -> Recipe:
    """Return the recipe of a class; no two classes share one.

    Args:
        number: Class number, in ``[0, MAX_CLASSES)``.

    Raises:
        ValueError: The number is outside that range.
    """
    if not 0 <= number < MAX_CLASSES:
        raise ValueError(f"number must be in [0, {MAX_CLASSES}), the embedded classes; got {number}.")
    code = (number * _STRIDE + _START) % MAX_CLASSES
    code, shape = divmod(code, len(SHAPES))
    code, texture = divmod(code, len(TEXTURES))
    arrangement, relation = divmod(code, len(RELATIONS))
    hue = (number * 5 % 8) / 8
    return Recipe(SHAPES[shape], TEXTURES[texture], RELATIONS[relation], ARRANGEMENTS[arrangement], hue)
