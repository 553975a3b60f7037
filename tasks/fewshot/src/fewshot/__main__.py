"""`python -m fewshot --config … --model.norm=bgn --seed=0`."""

from fewshot.data import FewshotData
from fewshot.module import FewshotModule
from shared.cli import main

MODULE, DATA = FewshotModule, FewshotData

if __name__ == "__main__":
    raise SystemExit(main("fewshot", MODULE, DATA))
