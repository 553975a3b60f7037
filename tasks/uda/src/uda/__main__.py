"""`python -m uda --config … --model.norm=bgn --data.source=amazon --data.target=webcam`."""

from shared.quick_help import show_kept_help

if __name__ == "__main__":
    show_kept_help()  # before the imports, which take ten seconds

from shared.cli import main
from uda.data import UdaData
from uda.module import UdaModule

MODULE, DATA = UdaModule, UdaData

if __name__ == "__main__":
    raise SystemExit(main("uda", MODULE, DATA))
