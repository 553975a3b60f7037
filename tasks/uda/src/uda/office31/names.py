"""What Office-31 must hold, and the spellings of its classes and domains that are found in the wild."""

from collections.abc import Iterable

from shared.errors import UserError

NUM_IMAGES = {"amazon": 2817, "dslr": 498, "webcam": 795}
"""Images of each domain, of Saenko et al. 2010, "Adapting Visual Category Models to New Domains"."""
DOMAINS = tuple(NUM_IMAGES)
CLASSES = (
    "back_pack", "bike", "bike_helmet", "bookcase", "bottle", "calculator", "desk_chair", "desk_lamp",
    "desktop_computer", "file_cabinet", "headphones", "keyboard", "laptop_computer", "letter_tray", "mobile_phone",
    "monitor", "mouse", "mug", "paper_notebook", "pen", "phone", "printer", "projector", "punchers", "ring_binder",
    "ruler", "scissors", "speaker", "stapler", "tape_dispenser", "trash_can",
)  # fmt: skip
"""The class names of the set, whose alphabetical order is the official one: label k is the k-th name."""

_OTHER_NAMES = {"laptop": "laptop_computer"}
_SEPARATORS = str.maketrans("", "", "_- ")
_MAX_NAMED = 3


def official_class(name: str) -> str:
    """Return the official spelling of a class name.

    Case, underscores, hyphens and spaces do not count (``backpack``, ``Back-Pack`` and ``back pack`` are
    ``back_pack``), and ``laptop`` is ``laptop_computer``. Any other name is returned as it is.

    Args:
        name: Name of a class folder.
    """
    return _BY_SPELLING.get(plain_spelling(name), name)


def plain_spelling(name: str) -> str:
    """Return a name in lower case without underscores, hyphens and spaces.

    Args:
        name: Name of a folder.
    """
    return name.lower().translate(_SEPARATORS)


def domain_spellings(domain: str) -> tuple[str, str]:
    """Return the names of a domain's folder, in lower case: the whole name, then its first letter (A/D/W).

    Args:
        domain: One of `DOMAINS`.
    """
    return domain, domain[0]


def name_differences(left: Iterable[str], right: Iterable[str], *, left_name: str, right_name: str) -> str:
    """Say which names only one of two sets has, for instance ``"bike, mug only in amazon; pen only in dslr"``.

    Args:
        left: Names of one side.
        right: Names of the other side.
        left_name: What the first side is called.
        right_name: What the other side is called.

    Returns:
        At most three names of each side, and how many more there are; empty if the sets are equal.
    """
    sides = ((set(left) - set(right), left_name), (set(right) - set(left), right_name))
    return "; ".join(f"{_some(names)} only in {side}" for names, side in sides if names)


def check_classes(domain: str, classes: tuple[str, ...], *, origin: str) -> None:
    """Check that a domain has the 31 classes.

    Args:
        domain: One of `DOMAINS`.
        classes: Its classes in their official spelling.
        origin: Where they come from, for the message.

    Raises:
        UserError: A class is missing, or is none of Office-31; the message names up to three of each.
    """
    differences = name_differences(classes, CLASSES, left_name=origin, right_name="Office-31")
    if differences:
        raise UserError(
            f"{domain} must have the {len(CLASSES)} classes of Office-31; got {len(classes)}: {differences}. Copy the "
            "set again, or set check=false for a subset."
        )


def check_num_images(domain: str, num_images: int, *, origin: str) -> None:
    """Check that a domain is complete.

    Args:
        domain: One of `DOMAINS`.
        num_images: Images that were found.
        origin: Where they come from, for the message.

    Raises:
        UserError: There are more or fewer than published.
    """
    if num_images != NUM_IMAGES[domain]:
        raise UserError(
            f"{domain} must have {NUM_IMAGES[domain]:,} images; got {num_images:,} in {origin}. Copy the set again, "
            "or set check=false for a subset."
        )


def _some(names: set[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(sorted(names)[:_MAX_NAMED]) + more


_BY_SPELLING = {plain_spelling(name): name for name in CLASSES} | _OTHER_NAMES
