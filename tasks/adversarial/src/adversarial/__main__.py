"""`python -m adversarial --config … --model.norm=bgn --seed=0`."""

from adversarial.data import AdversarialData
from adversarial.module import AdversarialModule
from shared.cli import main

MODULE, DATA = AdversarialModule, AdversarialData

if __name__ == "__main__":
    raise SystemExit(main("adversarial", MODULE, DATA))
