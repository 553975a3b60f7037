"""`python -m nas --config … --model.norm=bgn --seed=0`."""

from shared.quick_help import show_kept_help

if __name__ == "__main__":
    show_kept_help()  # before the imports, which take ten seconds

from nas.data import NasData
from nas.module import NasModule
from shared.cli import main

MODULE, DATA = NasModule, NasData

if __name__ == "__main__":
    raise SystemExit(main("nas", MODULE, DATA))
