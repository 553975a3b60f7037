"""Mean, deviation and intervals against published numbers, the standard library and plain integration."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.report.statistics import compare, sampling_error, summarise
from shared.report.student import t_quantile

# Student's sleep data and what R's t.test gives for them (?sleep).
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
# Two-sided 95 % and one-sided 99.5 % columns of a printed t table.
PRINTED = {1: (12.706, 63.657), 2: (4.303, 9.925), 4: (2.776, 4.604), 9: (2.262, 3.250), 30: (2.042, 2.750)}


@pytest.mark.parametrize(("degrees", "printed"), PRINTED.items())
def test_t_quantile_is_the_printed_one(degrees, printed):
    assert (round(t_quantile(0.975, degrees), 3), round(t_quantile(0.995, degrees), 3)) == printed


@settings(max_examples=20, deadline=None)
@given(degrees=st.floats(1.0, 60.0), probability=st.floats(0.55, 0.995))
def test_t_quantile_inverts_the_integral_of_the_density(degrees, probability):
    t = t_quantile(probability, degrees)
    front = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def density_of_angle(angle):  # t = √ν tan(angle) makes the range short
        return front * math.sqrt(degrees) * math.cos(angle) ** (degrees - 1)

    end = math.atan(t / math.sqrt(degrees))
    steps = 2000
    width = end / steps
    inner = sum((4 if index % 2 else 2) * density_of_angle(index * width) for index in range(1, steps))
    integral = (density_of_angle(0.0) + inner + density_of_angle(end)) * width / 3
    assert 0.5 + integral == pytest.approx(probability, abs=1e-10)


@pytest.mark.parametrize(
    ("arguments", "name"), [((0.4, 3), "probability"), ((1.0, 3), "probability"), ((0.9, 0), "degrees")]
)
def test_t_quantile_refuses_what_it_cannot_answer(arguments, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        t_quantile(*arguments)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_summary_is_that_of_the_standard_library(values):
    summary = summarise(values)
    assert summary.n == len(values)
    assert summary.mean == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-9)
    if len(values) == 1:
        assert summary.deviation is None
    else:
        assert summary.deviation == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-9)


def test_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="values must not be empty"):
        summarise([])


def test_paired_interval_is_the_published_one():
    difference = compare(dict(enumerate(DRUG_1)), dict(enumerate(DRUG_2)))
    assert difference.paired
    assert difference.mean == pytest.approx(-1.58, abs=1e-12)
    assert (difference.low, difference.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert difference.decided is True


def test_welch_interval_is_the_published_one():
    difference = compare(dict(enumerate(DRUG_1)), dict(enumerate(DRUG_2, start=100)))
    assert not difference.paired
    assert difference.mean == pytest.approx(-1.58, abs=1e-12)
    assert (difference.low, difference.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    assert difference.decided is False


def test_only_shared_seeds_are_paired():
    difference = compare({0: 1.0, 1: 2.0, 2: 100.0}, {0: 0.0, 1: 1.5, 7: -100.0})
    assert difference.paired
    assert difference.mean == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("first", "second"), [({0: 1.0}, {0: 0.0}), ({0: 1.0, 1: 2.0}, {5: 0.0}), ({0: 1.0}, {1: 0.0, 2: 5.0})]
)
def test_one_seed_decides_nothing(first, second):
    difference = compare(first, second)
    assert difference.decided is None
    assert difference.mean == pytest.approx(statistics.fmean(first.values()) - statistics.fmean(second.values()))


@pytest.mark.parametrize("sampling", [None, 0.0])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({0: 72.50, 1: 73.75}, {0: 71.25, 1: 72.50}),
        ({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}),
        ({0: 1.0, 1: 1.0}, {3: 0.5, 4: 0.5}),
        ({0: 59.82999801635742, 1: 60.46000289916992}, {0: 58.82999801635742, 1: 59.459999084472656}),
    ],
    ids=["accuracies on 80 images", "small numbers", "other seeds", "equal but for float32"],
)
def test_equal_differences_decide_nothing(first, second, sampling):
    difference = compare(first, second, sampling=sampling)
    assert (difference.low, difference.high, difference.decided) == (None, None, None)
    assert difference.obstacle == "no spread"


def test_the_margins_of_seeds_and_test_images_add_in_quadrature():
    """Differences 1, 2, 3: t margin 4.3027 · 1/√3 = 2.4841; sampling margin 1.95996 · 0.7 = 1.3720."""
    difference = compare({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0}, sampling=0.7)
    margin = math.sqrt(2.4841377**2 + 1.3719748**2)
    assert (difference.low, difference.high) == pytest.approx((2 - margin, 2 + margin), abs=1e-6)


def test_equal_differences_of_few_images_are_inside_the_noise_and_large_ones_of_many_outside():
    first, second = {0: 72.50, 1: 73.75}, {0: 71.25, 1: 72.50}
    few = compare(
        first, second, sampling=math.hypot(*(sampling_error(p, ci95=None, n=80, unit="%") for p in (73, 72)))
    )
    assert few.decided is False
    assert few.high - few.low == pytest.approx(2 * 1.959964 * math.sqrt((73 * 27 + 72 * 28) / 80), rel=1e-6)
    many = math.hypot(*(sampling_error(p, ci95=None, n=10**6, unit="%") for p in (73, 72)))
    assert compare(first, second, sampling=many).decided is True


values = st.dictionaries(st.integers(0, 4), st.floats(1.0, 99.0), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(values, values, st.floats(0.0, 10.0))
def test_test_images_only_ever_widen_the_interval(first, second, sampling):
    without, with_images = compare(first, second), compare(first, second, sampling=sampling)
    assert with_images.mean == without.mean
    if without.low is not None:
        assert with_images.low <= without.low
        assert with_images.high >= without.high


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"ci95": (59.0, 61.0), "n": 5, "unit": "%"}, 1 / 1.959964),
        ({"ci95": None, "n": 10000, "unit": "%"}, math.sqrt(60 * 40 / 10000)),
        ({"ci95": None, "n": 10000, "unit": ""}, None),
        ({"ci95": None, "n": None, "unit": "%"}, None),
        ({"ci95": None, "n": 0, "unit": "%"}, None),
    ],
)
def test_sampling_error_of_one_number(arguments, expected):
    assert sampling_error(60.0, **arguments) == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_a_percentage_out_of_its_range_has_no_sampling_error():
    assert sampling_error(140.0, ci95=None, n=10, unit="%") is None
