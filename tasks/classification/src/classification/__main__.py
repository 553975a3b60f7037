"""`python -m classification --config … --model.norm=bgn --seed=0`."""

from shared.quick_help import show_kept_help

if __name__ == "__main__":
    show_kept_help()  # before the imports, which take ten seconds

from classification.data import ClassificationData
from classification.module import ClassificationModule
from shared.cli import main

MODULE, DATA = ClassificationModule, ClassificationData

if __name__ == "__main__":
    raise SystemExit(main("classification", MODULE, DATA))
