"""Image sets for domain adaptation: Office-31 as it is found on disk, and any two folders with the same classes."""

from uda.office31.pairs import open_folder_pair
from uda.office31.reader import open_office31

__all__ = ["open_folder_pair", "open_office31"]
