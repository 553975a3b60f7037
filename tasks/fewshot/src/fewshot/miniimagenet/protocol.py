"""What miniImageNet must be: three splits of different classes, the same number of images in every class."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UserError

CLASSES = {"base": 64, "val": 16, "novel": 20}
"""Classes of each split, of Ravi and Larochelle 2017, "Optimization as a Model for Few-Shot Learning"."""
BASE_TEST = "base_test"
WHOLE_CLASS = 600
ORIGINAL_SIZE = 84
SPLIT_NAMES = {"base": "train", "val": "val", "novel": "test", BASE_TEST: "train_phase_test"}
"""What the files call each split."""
_VINYALS_BASE = 80


@dataclass(frozen=True)
class Listing:
    """The images of one split, counted: sorted by class, then by name.

    Args:
        classes: Class names, sorted; the label is the position in this tuple.
        counts: Images of each class.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def num_images(self) -> int:
        """Images of all classes together."""
        return sum(self.counts)

    @classmethod
    def of(cls, class_names: list[str]) -> "Listing":
        """Count the class name of each image.

        Args:
            class_names: One per image, in any order.
        """
        counts = Counter(class_names)
        classes = tuple(sorted(counts))
        return cls(classes, tuple(counts[name] for name in classes))


def check_listings(listings: Mapping[str, Listing], *, images_per_class: int, origin: Path) -> None:
    """Check the splits that are there against the protocol.

    Args:
        listings: By split: any of base, val, novel and base_test.
        images_per_class: Images that every class of base, val and novel must have.
        origin: Where the images come from, for the messages.

    Raises:
        UserError: A split has another number of classes, two splits share a class, or a class has another number of
            images.
    """
    protocol = {split: listings[split] for split in CLASSES if split in listings}
    _check_disjoint(protocol, origin)
    for split, listing in protocol.items():
        _check_num_classes(split, listing, origin)
    for split, listing in protocol.items():
        _check_counts(split, listing, images_per_class=images_per_class, origin=origin)
    if BASE_TEST in listings and listings[BASE_TEST].classes != protocol["base"].classes:
        raise UserError(
            f"train_phase_test must hold the {CLASSES['base']} classes of train; got "
            f"{len(listings[BASE_TEST].classes)} classes that are not all the same in {origin}. Copy the file again, "
            "or remove it."
        )


def _check_disjoint(protocol: Mapping[str, Listing], origin: Path) -> None:
    splits = list(protocol)
    for number, split in enumerate(splits):
        for other in splits[:number]:
            both = sorted(set(protocol[other].classes) & set(protocol[split].classes))
            if both:
                remedy = (
                    "They divide the images of each class: divide the classes instead, 64/16/20 (Ravi and Larochelle)"
                    if len(both) >= min(len(protocol[other].classes), len(protocol[split].classes))
                    else "Keep each class in its split of Ravi and Larochelle"
                )
                raise UserError(
                    f"{SPLIT_NAMES[other]} and {SPLIT_NAMES[split]} must have no class in common; got {len(both)}, "
                    f"the first is {both[0]}, in {origin}. {remedy}."
                )


def _check_num_classes(split: str, listing: Listing, origin: Path) -> None:
    found = len(listing.classes)
    if found != CLASSES[split]:
        hint = "This looks like the 80/20 split of Vinyals et al.: use" if found == _VINYALS_BASE else "Use"
        raise UserError(
            f"{SPLIT_NAMES[split]} must have {CLASSES[split]} classes; got {found} in {origin}. {hint} the 64/16/20 "
            "classes of Ravi and Larochelle."
        )


def _check_counts(split: str, listing: Listing, *, images_per_class: int, origin: Path) -> None:
    for name, count in zip(listing.classes, listing.counts):
        if count != images_per_class:
            usual = Counter(listing.counts).most_common(1)[0][0]
            remedy = (
                f"Class {name} is not complete: copy its images again."
                if usual == images_per_class
                else f"For a subset set data.images_per_class={usual}."
            )
            raise UserError(
                f"images_per_class must be the number of images of every class; got {images_per_class}, but {name} of "
                f"{SPLIT_NAMES[split]} has {count} in {origin}. {remedy}"
            )
