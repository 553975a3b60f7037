"""Shapes in the signatures of the task's pure functions are checked."""

from jaxtyping import install_import_hook

install_import_hook(
    [
        "nas.operations",
        "nas.supernet",
        "nas.network",
        "nas.bilevel",
        "nas.genotype",
        "nas.agent_tables",
        "nas.manas",
        "nas.least_squares",
        "nas.watching",
        "nas.drawing",
    ],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)
