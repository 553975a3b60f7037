"""The discrete space: derivation by hand and against the rule written out, the published cells, files and messages."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.genotype import (
    PRIMITIVES,
    PUBLISHED,
    Cell,
    Gene,
    Genotype,
    Provenance,
    derive_cell,
    derive_genotype,
    genotype_hash,
    load_genotype,
    path_genotype,
    random_genotype,
    reduction_places,
    resolve_genotype,
    sample_cell,
    save_genotype,
)
from nas.space import node_edges, num_edges
from shared.errors import UserError

PROVENANCE = Provenance(
    method="darts first order", norm="bgn", num_groups=256, seed=3, run="nas-bgn", commit="0123abc"
)


def message_of(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def quark0_cell(weights, steps):
    """The rule of quark0/darts, with numpy as there: sort by the best weight, then a loop for the operation."""
    gene, n, start = [], 2, 0
    for i in range(steps):
        end = start + n
        rows = weights[start:end].numpy().copy()
        none = PRIMITIVES.index("none")
        strength = [-max(row[k] for k in range(len(row)) if k != none) for row in rows]
        for j in sorted(range(i + 2), key=lambda edge: strength[edge])[:2]:
            best = None
            for k in range(len(rows[j])):
                if k != none and (best is None or rows[j][k] > rows[j][best]):
                    best = k
            gene.append((PRIMITIVES[best], j))
        start, n = end, n + 1
    return gene


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_nodes=st.integers(1, 5), levels=st.sampled_from([2, 5, 1000]))
def test_derived_cell_is_that_of_the_rule_written_out(seed, num_nodes, levels):
    """With few levels most comparisons are ties."""
    generator = torch.Generator().manual_seed(seed)
    alphas = torch.randint(levels, (num_edges(num_nodes), 8), generator=generator).double()
    weights = (alphas / levels).softmax(-1)
    cell = derive_cell(weights, num_nodes=num_nodes)
    assert [(gene.operation, gene.input) for gene in cell.genes] == quark0_cell(weights, num_nodes)


def test_softmax_and_raw_alphas_choose_other_edges():
    alphas = torch.full((14, 8), -9.0)
    alphas[0, 4], alphas[0, 0] = 3.0, 6.0  # the largest raw alpha, but "none" takes the probability
    alphas[1, 3], alphas[2, 5], alphas[3, 1], alphas[4, 7] = 1.0, 1.0, 1.0, 1.0
    alphas[2:5, 2] = 0.5  # node 1: states 0, 1 and 2 share theirs
    alphas[4, 2] = -9.0
    by_softmax = derive_cell(alphas.softmax(-1))
    assert by_softmax.nodes[0] == (Gene("skip_connect", 1), Gene("sep_conv_3x3", 0))
    assert by_softmax.nodes[1] == (Gene("dil_conv_5x5", 2), Gene("sep_conv_5x5", 0))
    assert derive_cell(alphas).nodes[0] == (Gene("sep_conv_3x3", 0), Gene("skip_connect", 1))


def test_none_is_never_derived():
    weights = torch.zeros(14, 8)
    weights[:, 0] = 1
    assert {gene.operation for gene in derive_cell(weights).genes} == {PRIMITIVES[1]}


@pytest.mark.parametrize(
    ("weights", "said"), [(torch.zeros(13, 8), r"\(14, 8\)"), (torch.full((14, 8), float("nan")), "finite")]
)
def test_wrong_weights_are_refused(weights, said):
    with pytest.raises(ValueError, match=said):
        derive_cell(weights)


def test_edges_and_places_are_those_of_the_paper():
    assert [num_edges(n) for n in (1, 2, 3, 4)] == [2, 5, 9, 14]
    assert [list(edges) for edges in node_edges(3)] == [[0, 1], [2, 3, 4], [5, 6, 7, 8]]
    assert reduction_places(8) == (2, 5)
    assert reduction_places(20) == (6, 13)
    assert PRIMITIVES[0] == "none"
    assert len(PRIMITIVES) == 8


def test_published_cells_are_as_printed():
    v1, v2 = PUBLISHED["DARTS_V1"], PUBLISHED["DARTS_V2"]
    short = {"sep_conv_3x3": "sep3", "skip_connect": "skip", "max_pool_3x3": "max", "avg_pool_3x3": "avg"}
    short["dil_conv_3x3"] = "dil3"

    def written(cell):
        return " | ".join("".join(f"({short[gene.operation]},{gene.input})" for gene in node) for node in cell.nodes)

    assert written(v1.cells[0]) == "(sep3,1)(sep3,0) | (skip,0)(sep3,1) | (skip,0)(sep3,1) | (sep3,0)(skip,2)"
    assert written(v1.cells[1]) == "(max,0)(max,1) | (skip,2)(max,0) | (max,0)(skip,2) | (skip,2)(avg,0)"
    assert written(v2.cells[0]) == "(sep3,0)(sep3,1) | (sep3,0)(sep3,1) | (sep3,1)(skip,0) | (skip,0)(dil3,2)"
    assert written(v2.cells[1]) == "(max,0)(max,1) | (skip,2)(max,1) | (max,0)(skip,2) | (skip,2)(max,1)"


def test_cells_stand_at_their_places():
    shared = PUBLISHED["DARTS_V2"]
    normal, reduction = shared.cells
    assert [shared.cell_at(i, num_cells=8) is reduction for i in range(8)] == [i in (2, 5) for i in range(8)]
    assert shared.cell_at(0, num_cells=20) is normal
    own = random_genotype(4, generator=torch.Generator().manual_seed(0), num_cells=3)
    assert [own.cell_at(i, num_cells=3) for i in range(3)] == list(own.cells)
    assert own.labels == ["cell 0", "cell 1", "cell 2"]
    assert message_of(own.cell_at, 0, num_cells=20).startswith("num_cells must be 3 for genotype random")


def test_random_cells_are_uniform_over_the_space():
    generator = torch.Generator().manual_seed(0)
    cells = [sample_cell(2, generator=generator) for _ in range(6300)]
    pairs = Counter(tuple(gene.input for gene in cell.nodes[1]) for cell in cells)
    operations = Counter(gene.operation for cell in cells for gene in cell.genes)
    assert set(pairs) == {(0, 1), (0, 2), (1, 2)}
    assert set(operations) == set(PRIMITIVES[1:])
    for counts, total in ((pairs, 6300), (operations, 4 * 6300)):
        expected = total / len(counts)
        chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi_square < 22.5  # the 99.9 % quantile for 6 degrees of freedom, the larger of the two
    again = [sample_cell(2, generator=torch.Generator().manual_seed(0))]
    assert again == cells[:1]


def test_a_path_has_a_gene_on_every_edge():
    path = torch.arange(28).remainder(8).reshape(2, 14)
    genotype = path_genotype(path, name="path")
    assert genotype.cells[0].is_path
    assert genotype.cells[0].nodes[1] == (
        Gene("avg_pool_3x3", 0),
        Gene("skip_connect", 1),
        Gene("sep_conv_3x3", 2),
    )
    assert [PRIMITIVES.index(gene.operation) for gene in genotype.cells[1].genes] == path[1].tolist()
    assert load_genotype(genotype.to_json(PROVENANCE)) == (genotype, PROVENANCE)
    with pytest.raises(ValueError, match="operations must be 14"):
        path_genotype(path[:, :13], name="path")


@pytest.mark.parametrize("num_cells", [None, 8])
def test_files_round_trip(tmp_path, num_cells):
    genotype = random_genotype(generator=torch.Generator().manual_seed(1), num_cells=num_cells)
    save_genotype(tmp_path / "genotype.json", genotype, provenance=PROVENANCE)
    assert (tmp_path / "genotype.json").read_text() == genotype.to_json(PROVENANCE)
    for source in (tmp_path / "genotype.json", str(tmp_path / "genotype.json"), genotype.to_json(PROVENANCE)):
        assert load_genotype(source) == (genotype, PROVENANCE)
    for spec in (tmp_path, tmp_path / "genotype.json"):
        assert resolve_genotype(str(spec)) == (genotype, PROVENANCE)


def test_published_names_resolve():
    assert resolve_genotype("DARTS_V1") == (PUBLISHED["DARTS_V1"], None)


def test_hash_is_of_the_architecture_alone():
    v2 = PUBLISHED["DARTS_V2"]
    swapped = tuple(Cell(tuple(node[::-1] for node in cell.nodes)) for cell in v2.cells)
    assert genotype_hash(Genotype(name="other", cells=swapped)) == genotype_hash(v2)
    assert genotype_hash(Genotype(name="DARTS_V2", cells=v2.cells[::-1])) != genotype_hash(v2)
    assert genotype_hash(Genotype(name="DARTS_V2", cells=v2.cells, per_cell=True)) != genotype_hash(v2)
    assert genotype_hash(v2) == "f1e4e2972c7df255"  # files of earlier versions must stay readable


def changed(**changes) -> str:
    return json.dumps({**json.loads(PUBLISHED["DARTS_V2"].to_json(PROVENANCE)), **changes})


def with_first_node(*genes) -> str:
    cells = json.loads(changed())["cells"]
    cells["normal"][0] = list(genes)
    return changed(cells=cells)


TEXTS = {
    "unknown operation": (
        with_first_node(["sep_conv_7x7", 0], ["skip_connect", 1]),
        "the genotype's text: normal: operation must be one of none, max_pool_3x3, avg_pool_3x3, skip_connect, "
        "sep_conv_3x3, sep_conv_5x5, dil_conv_3x3, dil_conv_5x5; got 'sep_conv_7x7'. Did you mean 'sep_conv_5x5'?",
    ),
    "later state": (
        with_first_node(["skip_connect", 0], ["skip_connect", 2]),
        "the genotype's text: normal: the input of a gene of node 0 must be an earlier state, 0 to 1; got 2.",
    ),
    "same state twice": (
        with_first_node(["skip_connect", 1], ["sep_conv_3x3", 1]),
        "the genotype's text: normal: the inputs of node 0 must differ; got 1, 1.",
    ),
    "a column for an operation": (with_first_node([4, 0], [3, 1]), "normal must be a list of nodes"),
    "a word for an input": (with_first_node(["skip_connect", "0"], ["skip_connect", 1]), "input must be the number"),
    "a truth for an input": (with_first_node(["skip_connect", True], ["skip_connect", 0]), "input must be the number"),
    "one gene": (with_first_node(["skip_connect", 0]), "node 0 must have 2 genes"),
    "none": (with_first_node(["none", 0], ["skip_connect", 1]), "must not be 'none'"),
    "no gene": (with_first_node(), "node 0 must have 2 genes"),
    "other schema": (changed(schema=2), "schema must be 1; got 2."),
    "other cells": (with_first_node(["skip_connect", 0], ["skip_connect", 1]), "hash must be that of the cells"),
    "misspelt key": (changed(cell=[]), "a key of a genotype must be one of cells, hash, name"),
    "no cells": ('{"schema": 1, "name": "mine"}', "a genotype must have cells, name, schema; cells is missing."),
    "empty list of cells": (changed(cells=[]), "must have at least one; got none."),
    "cells of other sizes": (
        changed(cells=[[[["skip_connect", 0], ["skip_connect", 1]]] * n for n in (1, 2)]),
        "all cells must have the same number of nodes; got 1, 2.",
    ),
    "no reduction cell": (changed(cells={"normal": []}), "cells must have normal, reduction; reduction is missing."),
    "a number for a name": (changed(name=3), "name must be text; got 3."),
    "provenance without its seed": (changed(provenance={"norm": "bn"}), "commit, method, num_groups, run, seed is"),
    "provenance with a word for its seed": (
        changed(provenance={**json.loads(changed())["provenance"], "seed": "0"}),
        "seed must be a whole number; got '0'.",
    ),
    "cut short": (changed()[:-20], "the genotype's text must be JSON;"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_wrong_text_gets_one_clear_line(case):
    text, said = TEXTS[case]
    assert said in message_of(load_genotype, text)


def test_a_text_by_hand_needs_no_hash_and_no_provenance():
    document = json.loads(with_first_node(["skip_connect", 0], ["skip_connect", 1]))
    del document["hash"], document["provenance"]
    genotype, provenance = load_genotype(json.dumps(document))
    assert provenance is None
    assert genotype.cells[0].nodes[0] == (Gene("skip_connect", 0), Gene("skip_connect", 1))


def test_a_wrong_place_gets_one_clear_line(tmp_path):
    (tmp_path / "genotype.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.json").write_text("[]")
    assert message_of(resolve_genotype, "DARTS_V3") == (
        "genotype must be one of DARTS_V1, DARTS_V2, a genotype's file, the folder of a search's run; "
        "got 'DARTS_V3'. Did you mean 'DARTS_V2'?"
    )
    assert "which does not" in message_of(resolve_genotype, str(tmp_path))
    assert "No such file or directory" in message_of(resolve_genotype, "gone/genotype.json")
    assert "no text" in message_of(resolve_genotype, str(tmp_path / "genotype.bin"))
    assert "list.json: a genotype must be an object" in message_of(resolve_genotype, str(tmp_path / "list.json"))


def test_derived_genotype_has_a_cell_for_each_table():
    weights = torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = derive_genotype(weights, name="found", num_nodes=2, per_cell=True)
    assert own.cells == tuple(derive_cell(table, num_nodes=2) for table in weights)
    assert own.num_nodes == 2
    assert message_of(derive_genotype, weights, name="found", num_nodes=2).endswith("got 3 cells.")
