"""Tables, figures and one HTML page from run records, ours beside the paper's.

`python -m shared.report` is the command; `shared.report.paper` serves the paper's numbers to everyone else.
Nothing here imports torch, and nothing is imported before it is needed.
"""
