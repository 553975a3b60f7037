"""`python -m classification --config … --model.norm=bgn --seed=0`."""

from shared.cli import main

from classification.data import ClassificationData as DATA
from classification.module import ClassificationModule as MODULE

if __name__ == "__main__":
    raise SystemExit(main("classification", MODULE, DATA))
