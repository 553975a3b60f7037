"""Benchmarks: what is measured here is measured beside what it is compared to, in one run."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which counts memory, announces every start
