"""Mean, deviation and intervals against published numbers, the standard library and plain integration."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.report.statistics import compare, summarise, t_quantile

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


def test_equal_differences_have_an_interval_of_no_width():
    difference = compare({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5})
    assert (difference.low, difference.high) == (0.5, 0.5)
    assert difference.decided is True
    same = compare({0: 1.0, 1: 1.0}, {3: 1.0, 4: 1.0})
    assert same.decided is False
