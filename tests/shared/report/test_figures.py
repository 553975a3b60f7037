"""Figures: the numbers drawn, equal bytes for equal input, and what inlining changes."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from norm_layers.registry import NORMS
from shared.report.experiments import split_into_experiments
from shared.report.figures import (
    MAX_CURVE_POINTS,
    PALETTE,
    batch_size_figure,
    curve_figure,
    drawing,
    inline_svg,
    norm_style,
    opaque_svg,
    paper_batch_size_figure,
    seeds_figure,
)
from shared.report.page import draw_section, page_norms, render_page
from shared.report.paper import load_paper_tables
from shared.report.records import parse_record
from shared.report.sections import make_sections

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def section(make_record):
    values = {"bn": (62.0, 50.0), "gn": (60.0, 58.0), "my.norms:Own": (61.0, 59.0)}
    records = [
        make_record(norm, value + seed, seed=seed, batch_size=size)
        for norm, pair in values.items()
        for size, value in zip((64, 2), pair, strict=True)
        for seed in range(2)
    ]
    (made,) = make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))
    return made


def texts(figure):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(figure.svg).iter(f"{SVG}text")]


def line(figure, colour):
    """Points of the first drawn line of a colour, in the order of the file."""
    for path in ElementTree.fromstring(figure.svg).iter(f"{SVG}path"):
        if f"stroke: {colour.lower()}" in path.get("style", "") and "stroke-width: 1.5" in path.get("style", ""):
            return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path.get("d"))]
    raise AssertionError(f"no line in {colour}")


def test_accuracy_over_batch_size_is_drawn_to_scale(section):
    figure = batch_size_figure(section.grids[0])
    assert {"64", "2", "BN", "GN", "Own", "batch size per worker"} <= set(texts(figure))
    (bn_x64, bn_y64), (bn_x2, bn_y2) = line(figure, PALETTE[0])
    (_, gn_y64), (_, gn_y2) = line(figure, PALETTE[3])
    assert bn_x64 > bn_x2
    assert (bn_y64 - bn_y2) / (gn_y64 - gn_y2) == pytest.approx((62.5 - 50.5) / (60.5 - 58.5), rel=0.01)


def test_the_papers_figure_has_its_seven_sizes():
    figure = paper_batch_size_figure(load_paper_tables()[2], {"bn": "BN"})
    assert {"2", "4", "8", "16", "32", "64", "128", "BN", "bgn"} <= set(texts(figure))
    assert len(line(figure, PALETTE[0])) == 7


def test_norms_without_a_value_are_still_named(make_record):
    records = [make_record("bn", 60.0), make_record("gn", status="diverged", metrics={})]
    (made,) = make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))
    assert {"BN", "GN (no value)"} <= set(texts(seeds_figure(made.grids[0], 64)))


def test_long_curves_are_thinned_and_keep_their_ends(make_record):
    points = [[x, 60.0 - 100.0 / x] for x in range(1, 1001)]
    records = [parse_record(json.dumps(make_record("bn", curves={"test/top1": points})))]
    (made,) = make_sections(split_into_experiments(records))
    by_run = {record.run: record for record in records}
    drawn = line(curve_figure(by_run, "test/top1", made.grids[0], 64), PALETTE[0])
    assert len(drawn) == MAX_CURVE_POINTS
    assert curve_figure(by_run, "val/none", made.grids[0], 64) is None


def test_curves_average_the_runs_of_the_table_only(make_record):
    """BGN at batch size 64 has 256 groups by default; the run with G = 1 is in the G sweep, not in the curve."""
    records = [
        make_record("bgn", num_groups=groups, suffix=f"g{groups}", curves={"test/top1": [[1, 0.0], [2, height]]})
        for groups, height in ((256, 10.0), (1, 1000.0))
    ]
    parsed = [parse_record(json.dumps(record)) for record in records]
    (made,) = make_sections(split_into_experiments(parsed))
    figure = curve_figure({record.run: record for record in parsed}, "test/top1", made.grids[0], 64)
    assert "1000" not in texts(figure)
    assert "10" in texts(figure)


def test_reruns_of_a_seed_count_once_in_a_curve(make_record):
    """Seed 0 ran twice, at 0 and 20, seed 1 once, at 40: as if seed 0 had run once, at 10."""
    drawn = []
    for heights in ([("a", 0, 0.0), ("b", 0, 20.0), ("c", 1, 40.0)], [("a", 0, 10.0), ("c", 1, 40.0)]):
        parsed = [
            parse_record(
                json.dumps(make_record("bn", seed=seed, suffix=name, curves={"test/top1": [[1, y], [2, 2 * y]]}))
            )
            for name, seed, y in heights
        ]
        (made,) = make_sections(split_into_experiments(parsed))
        drawn.append(curve_figure({record.run: record for record in parsed}, "test/top1", made.grids[0], 64).svg)
    assert drawn[0] == drawn[1]


def test_equal_input_gives_equal_bytes(section):
    grid = section.grids[0]
    assert batch_size_figure(grid).svg == batch_size_figure(grid).svg
    assert seeds_figure(grid, 64).svg == seeds_figure(grid, 64).svg


def test_inline_figures_have_ids_of_their_own_and_no_address(section):
    figure = batch_size_figure(section.grids[0])
    first, second = inline_svg(figure, "a"), inline_svg(figure, "b")
    ids = [set(re.findall(r' id="([^"]*)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, known in zip((first, second), ids, strict=True):
        used = set(re.findall(r'href="#([^"]*)"', text)) | set(re.findall(r"url\(#([^)]*)\)", text))
        assert used <= known
        assert "http" not in text
        assert "currentColor" in text


def test_files_of_their_own_are_whole_and_white(section):
    root = ElementTree.fromstring(opaque_svg(batch_size_figure(section.grids[0])))
    assert root.tag == f"{SVG}svg"
    assert (root[0].tag, root[0].get("fill")) == (f"{SVG}rect", "#ffffff")


def colour(norm, norms):
    return norm_style(norm, norms)["color"]


def test_a_norm_from_outside_takes_a_colour_that_no_norm_of_the_page_has():
    paper = [norm for norm in NORMS if norm != "none"]
    assert colour("x:A", [*paper, "x:A"]) == colour("none", list(NORMS))
    assert colour("x:A", [*NORMS, "x:A"]) == PALETTE[0]
    norms = ["bn", "x:A", "x:B", "x:C", "bgn"]
    assert len({colour(norm, norms) for norm in norms}) == len(norms)
    assert {norm_style(norm, norms)["linestyle"] for norm in norms} == {"-"}
    assert [norm_style(norm, norms) for norm in NORMS] == [norm_style(norm, []) for norm in NORMS]


def test_where_colours_run_out_the_dashes_and_the_marker_differ():
    outside = [f"x:N{number}" for number in range(20)]
    norms = [*(norm for norm in NORMS if norm != "none"), *outside]
    looks = [norm_style(norm, norms) for norm in norms]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == len(looks)
    assert [look["linestyle"] for look in looks[:9]] == ["-"] * 8 + ["--"]
    assert not {look["marker"] for look in looks[:7]} & {look["marker"] for look in looks[7:]}


def test_a_norm_has_one_colour_on_the_page(make_record):
    """MyNorm stands beside BN alone in one experiment, and after another norm from outside on the page."""
    records = [make_record(norm, batch_size=size, config=config, suffix=f"{config}{size}", paper=[])
               for config, norms in (("all", ("bn", "in", "gn", "x:Another")), ("few", ("bn", "x:MyNorm")))
               for norm in norms for size in (64, 2)]  # fmt: skip
    sections = make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))
    norms = page_norms(sections)
    (few,) = (section for section in sections if section.experiments[0].first.config == "few")
    drawn = draw_section(few, norms=norms)
    mine = colour("x:MyNorm", norms)
    assert mine == colour("bgn", list(NORMS))
    figures = [drawn.main[0], *drawn.curves]
    assert len(figures) > 2
    assert all(mine.lower() in figure.svg.lower() for figure in figures)
    assert mine.lower() in render_page(sections, []).lower()


def test_the_norms_of_the_paper_s_figure_are_on_the_page(make_record):
    records = [make_record(norm, batch_size=size) for norm in ("bn", "x:MyNorm") for size in (64, 2)]
    (section,) = make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))
    assert page_norms([section]) == [*(norm for norm in NORMS if norm != "none"), "x:MyNorm"]


def test_each_norm_has_a_look_of_its_own():
    outside = ["x:A", "x:B"]
    looks = [tuple(norm_style(norm, [*NORMS, *outside]).values()) for norm in [*NORMS, *outside]]
    assert len(set(looks)) == len(looks)


def test_dollars_in_names_are_not_read_as_mathematics(make_record):
    records = [make_record("x:$_{", 60.0, batch_size=size) for size in (2, 4)]
    (made,) = make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))
    assert "$_{" in texts(batch_size_figure(made.grids[0]))


def test_numbers_that_are_read_are_whole_and_coordinates_are_short():
    with drawing("lr 0.0125", x='from 1.23456 of id="here"', y="") as (axes, finish):
        axes.plot([0.0, 0.0042], [1.0, 2.0])
        axes.set_xticks([0.0021, 0.00333333])
        figure = finish()
    assert {"lr 0.0125", 'from 1.23456 of id="here"', "0.002100", "0.003333"} <= set(texts(figure))
    tags = re.findall("<[^>]*>", figure.svg)
    assert not re.search(r"\d\.\d{3}", "".join(tags))
    inline = ElementTree.fromstring(re.sub(r"xlink:", "", inline_svg(figure, "p")))
    assert {"lr 0.0125", 'from 1.23456 of id="here"', "0.002100"} <= {
        "".join(n.itertext()) for n in inline.iter("text")
    }


def test_a_norm_whose_name_begins_with_an_underscore_is_in_the_legends(make_record):
    records = [make_record(norm, batch_size=size) for norm in ("bn", "x:_Own") for size in (64, 2)]
    parsed = [parse_record(json.dumps(record)) for record in records]
    (made,) = make_sections(split_into_experiments(parsed))
    drawn = draw_section(made)
    for figure in (drawn.main[0], *drawn.curves):
        assert {"BN", "_Own"} <= set(texts(figure))
