"""`python -m fewshot --config … --model.norm=bgn --seed=0`."""

from shared.quick_help import show_kept_help

if __name__ == "__main__":
    show_kept_help()  # before the imports, which take ten seconds

from fewshot.data import FewshotData
from fewshot.module import FewshotModule
from shared.cli import main

MODULE, DATA = FewshotModule, FewshotData

if __name__ == "__main__":
    raise SystemExit(main("fewshot", MODULE, DATA))
