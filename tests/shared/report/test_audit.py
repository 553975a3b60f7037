"""What the layers really were, in words: per norm in the audit table, and as a note below the main table."""

import json

import pytest

from shared.report.audit import audit_table, describe_layers, layer_notes
from shared.report.records import parse_record


def layer(channels, size, count, groups, *, norm="gn", fallback=None, equivalent=None):
    return {
        "shape": [channels, size, size],
        "count": count,
        "norm": norm,
        "num_groups": groups,
        "values_per_statistic": channels * size * size // (groups or 1),
        "straddling": False,
        "fallback": fallback,
        "equivalent": equivalent,
    }


GN = [layer(16, 16, 7, 32, fallback="flat"), layer(32, 8, 6, 32, equivalent="=IN"), layer(64, 4, 6, 32)]
GBGN = [
    layer(16, 16, 7, 32, norm="gbgn"),
    layer(32, 8, 6, 32, norm="gbgn", equivalent="=BN"),
    layer(64, 4, 6, 32, norm="gbgn"),
]


def parse(make_record, norm, layers, **changes):
    return parse_record(json.dumps(make_record(norm, norm_audit={"layers": layers}, **changes)))


@pytest.mark.parametrize(
    ("layers", "asked", "expected"),
    [
        (
            GN,
            "gn",
            "7 layers flat groups of 1/2 channel (G = 32 does not divide C = 16), 6 layers exactly IN, "
            "6 layers 2 channels per group",
        ),
        (GBGN, "gbgn", "7 layers 2 groups per channel, 6 layers exactly BN, 6 layers 2 channels per group"),
        ([layer(16, 16, 19, None, norm="bn")], "bn", "19 layers BN"),
        (
            [layer(16, 16, 1, None, norm="bn"), layer(16, 16, 2, 2)],
            "gn",
            "1 layer BN, 2 layers 8 channels per group",
        ),
        (
            [layer(36, 4, 2, 18, fallback="divisor")],
            "gn",
            "2 layers 2 channels per group (G lowered to a divisor of C = 36)",
        ),
        (
            [layer(3, 7, 1, 16, norm="bgn", fallback="split")],
            "bgn",
            "1 layer groups of unequal size (G = 16 does not divide C·H·W = 147)",
        ),
        (
            [layer(8, 1, 1, 8, norm="bgn", fallback="clamp")],
            "bgn",
            "1 layer 1 channel per group (G lowered to C·H·W = 8)",
        ),
        ([layer(6, 4, 1, 4, norm="bgn")], "bgn", "1 layer groups of 3/2 channels"),
        ([layer(16, 4, 1, 24, norm="bgn")], "bgn", "1 layer groups of 2/3 channel"),
        ([{"num_groups": 3, "fallback": "odd"}], "gn", "1 layer G = 3, fallback odd"),
        ([{}], "my.norms:Own", "1 layer Own"),
    ],
)
def test_layers_in_words(layers, asked, expected):
    assert describe_layers(layers, asked=asked) == expected


def test_equal_kinds_are_counted_together():
    assert describe_layers([layer(64, 4, 6, 32), layer(64, 2, 3, 32)], asked="gn") == "9 layers 2 channels per group"


def test_a_norm_that_is_partly_another_is_noted(make_record):
    records = [parse(make_record, "gn", GN, seed=seed) for seed in range(2)] + [parse(make_record, "gbgn", GBGN)]
    records.append(parse(make_record, "bn", [layer(16, 16, 19, None, norm="bn")]))
    assert layer_notes(records) == [
        "GN: 6 of 19 layers are exactly IN; 7 use flat groups over C·H·W, because G = 32 does not divide 16 channels.",
        "GBGN: 6 of 19 layers are exactly BN.",
    ]


def test_notes_name_the_batch_sizes_they_concern(make_record):
    plain, equal = [layer(64, 4, 6, 32, norm="bgn")], [layer(64, 4, 6, 64, norm="bgn", equivalent="=BN")]
    records = [parse(make_record, "bgn", plain, batch_size=64, num_groups=32)]
    records += [parse(make_record, "bgn", equal, batch_size=size, num_groups=64) for size in (4, 16)]
    assert layer_notes(records) == ["BGN at batch sizes 16 and 4: all 6 layers are exactly BN."]


def test_unconverted_layers_and_other_fallbacks_are_noted(make_record):
    layers = [
        layer(16, 4, 1, None, norm="bn"),
        layer(36, 4, 2, 18, fallback="divisor"),
        layer(40, 4, 3, 20, fallback="divisor"),
    ]
    assert layer_notes([parse(make_record, "gn", layers)]) == [
        "GN: 1 of 6 layers is BN; 5 use fewer groups, because G = 32 does not divide 36 and 40 channels."
    ]
    layers = [layer(3, 7, 4, 256, norm="bgn", fallback="split"), layer(8, 1, 2, 8, norm="bgn", fallback="clamp")]
    assert layer_notes([parse(make_record, "bgn", layers)]) == [
        "BGN: 4 of 6 layers use groups of unequal size, because G = 256 does not divide their C·H·W values; 2 use "
        "fewer groups, because they have fewer values than G = 256."
    ]


def test_norms_from_outside_and_records_without_an_audit_have_no_notes(make_record):
    own = parse(make_record, "my.norms:Own", [layer(16, 4, 2, None, norm="torch.nn:Own")])
    assert layer_notes([own, parse_record(json.dumps(make_record("gn", norm_audit=None)))]) == []


def test_the_table_has_a_row_for_each_norm_and_batch_size(make_record, parse_page):
    records = [parse(make_record, "gn", GN, seed=seed, batch_size=size) for seed in range(2) for size in (64, 2)]
    (table,) = parse_page(audit_table(records)).tables
    assert table[0] == ["norm", "batch size", "G asked", "layers", "values per statistic", "what the layers compute"]
    assert [row[:5] for row in table[1:]] == [
        ["GN", "64", "32", "19", "32 to 128"],
        ["GN", "2", "32", "19", "32 to 128"],
    ]
    assert table[1][5] == describe_layers(GN, asked="gn")
    assert audit_table([]) == ""


def test_the_notes_stand_below_the_main_table(make_record, parse_page, write_runs, tmp_path):
    from shared.report.reading import read_records
    from shared.report.writing import write_report

    note = "GN: 6 of 19 layers are exactly IN; 7 use flat groups over C·H·W"
    runs = write_runs([make_record("gn", norm_audit={"layers": GN}), make_record("bn")])
    write_report(read_records(runs=runs, results=None), tmp_path / "out")
    texts = parse_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8")).texts
    assert sum(text.startswith(note) for text in texts) == 1
    for path in (tmp_path / "out" / "results.md", *(tmp_path / "out" / "tables").glob("*.md")):
        assert path.read_text(encoding="utf-8").count(note) == 1
