"""`python -m classification --config … --model.norm=bgn --seed=0`."""

from classification.data import ClassificationData
from classification.module import ClassificationModule
from shared.cli import main

MODULE, DATA = ClassificationModule, ClassificationData

if __name__ == "__main__":
    raise SystemExit(main("classification", MODULE, DATA))
