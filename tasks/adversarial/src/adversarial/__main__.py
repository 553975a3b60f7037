"""`python -m adversarial --config … --model.norm=bgn --seed=0`."""

from shared.quick_help import show_kept_help

if __name__ == "__main__":
    show_kept_help()  # before the imports, which take ten seconds

from adversarial.data import AdversarialData
from adversarial.module import AdversarialModule
from shared.cli import main

MODULE, DATA = AdversarialModule, AdversarialData

if __name__ == "__main__":
    raise SystemExit(main("adversarial", MODULE, DATA))
