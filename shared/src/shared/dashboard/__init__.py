"""The W&B workspace and report of the suite, as code."""
