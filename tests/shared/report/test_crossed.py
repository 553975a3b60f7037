"""Seeds crossed with items: the estimate against numpy and textbook numbers, and the coverage of its interval."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.report.crossed import crossed_estimate, satterthwaite
from shared.report.statistics import compare
from shared.report.student import t_quantile


def mean_squares(table):
    """Of rows, columns and residual, from the matrix of residuals by plain projection."""
    table = np.asarray(table, dtype=np.float64)
    num_seeds, num_items = table.shape
    rows = table.mean(axis=1, keepdims=True) - table.mean()
    columns = table.mean(axis=0, keepdims=True) - table.mean()
    residual = table - table.mean() - rows - columns
    return (
        num_items * (rows**2).sum() / (num_seeds - 1),
        num_seeds * (columns**2).sum() / (num_items - 1),
        (residual**2).sum() / ((num_seeds - 1) * (num_items - 1)),
    )


tables = st.tuples(st.integers(2, 5), st.integers(2, 12), st.integers(0, 10**6), st.floats(0, 5), st.floats(0, 5)).map(
    lambda drawn: (
        (random := np.random.default_rng(drawn[2])).normal(size=drawn[:2])
        + drawn[3] * random.normal(size=(drawn[0], 1))
        + drawn[4] * random.normal(size=(1, drawn[1]))
    )
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_variance_and_degrees_are_those_of_the_mean_squares(table):
    num_seeds, num_items = table.shape
    terms = [square / table.size for square in mean_squares(table)]
    degrees = [num_seeds - 1, num_items - 1, (num_seeds - 1) * (num_items - 1)]
    expected = terms[0] + terms[1] - terms[2]
    nu = expected**2 / sum(term**2 / each for term, each in zip(terms, degrees, strict=True))
    if expected < max(terms[:2]):
        expected, nu = max(zip(terms[:2], degrees[:2], strict=True))
    found = crossed_estimate(table.tolist())
    assert found.mean == pytest.approx(table.mean(), abs=1e-12)
    assert found.variance == pytest.approx(expected, rel=1e-9)
    assert found.degrees == pytest.approx(nu, rel=1e-6)
    alone = t_quantile(0.975, num_seeds - 1) * table.mean(axis=1).std(ddof=1) / math.sqrt(num_seeds)
    assert found.margin == pytest.approx(max(t_quantile(0.975, nu) * math.sqrt(expected), alone), rel=1e-6)
    assert found.over_seeds


def test_one_seed_is_the_t_interval_over_its_items():
    """Student's sleep data as items of one seed: R's paired t.test gives 0.7001142 to 2.4598858."""
    differences = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = crossed_estimate([differences])
    assert not found.over_seeds
    assert (found.mean - found.margin, found.mean + found.margin) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert found.degrees == 9


@settings(max_examples=30, deadline=None)
@given(tables, st.integers(0, 10**6))
def test_two_tables_of_the_same_items(first, entropy):
    random = np.random.default_rng(entropy)
    second = random.normal(size=(3, first.shape[1])) + 2 * random.normal(size=(3, 1))
    found = crossed_estimate(first.tolist(), second.tolist())
    seeds = first.mean(axis=1).var(ddof=1) / len(first) + second.mean(axis=1).var(ddof=1) / 3
    items = (first.mean(axis=0) - second.mean(axis=0)).var(ddof=1) / first.shape[1]
    residual = sum(mean_squares(table)[2] / table.size for table in (first, second))
    assert found.mean == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    assert found.variance == pytest.approx(max(seeds + items - residual, seeds, items), rel=1e-9)


def test_satterthwaite_s_degrees_of_two_equal_terms():
    """Two variances of equal size with 4 degrees each have 8 together; a weight of −1 subtracts and still costs."""
    assert satterthwaite([(0.5, 4), (0.5, 4)]) == (1.0, pytest.approx(8.0))
    assert satterthwaite([(3.0, 4), (-1.0, 4)]) == (2.0, pytest.approx(4 / (9 / 4 + 1 / 4)))
    assert satterthwaite([(0.0, 3), (0.0, 7)]) == (0.0, 3.0)


@pytest.mark.parametrize(
    "first", [[], [[]], [[1.0]], [[1.0, 2.0], [1.0]]], ids=["no seed", "no item", "one", "ragged"]
)
def test_tables_that_are_none_are_refused(first):
    with pytest.raises(ValueError, match="tables must have a row of the same two or more items for each seed; got"):
        crossed_estimate(first)


@pytest.mark.parametrize(
    ("num_seeds", "seed", "item", "residual"),
    [(3, 0, 0, 1), (3, 0, 0.5, 1), (3, 0.1, 0.5, 1), (3, 1, 0.5, 1), (2, 0.3, 0.5, 1), (5, 0.2, 1, 0.1)],
    ids=["residual only", "no seed variance", "little", "mostly seeds", "two seeds", "five seeds"],
)
def test_the_interval_covers_the_truth(num_seeds, seed, item, residual):
    """In 95 % of the draws or more, up to 3 standard errors of that share, and not always either."""
    random = np.random.default_rng(0)
    covered, draws = 0, 800
    for _ in range(draws):
        table = seed * random.normal(size=(num_seeds, 1)) + item * random.normal(size=(1, 60))
        found = crossed_estimate((table + residual * random.normal(size=(num_seeds, 60))).tolist())
        covered += abs(found.mean) <= found.margin
    assert covered / draws >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)
    assert covered / draws <= 0.995


@settings(max_examples=30, deadline=None)
@given(tables)
def test_comparing_norms_on_the_same_items_is_the_estimate_of_their_differences(table):
    """Episodes that are hard for both norms cancel, whatever their spread."""
    hardness = 50.0 * np.random.default_rng(1).normal(size=(1, table.shape[1]))
    seeds = range(len(table))
    first, second = (dict(zip(seeds, (hardness + each).tolist(), strict=True)) for each in (table, 0 * table))
    means = [{seed: math.fsum(row) / len(row) for seed, row in each.items()} for each in (first, second)]
    found = compare(*means, items=(first, second), sampling=100.0)
    expected = crossed_estimate(table.tolist())
    assert found.paired
    assert (found.mean, found.high - found.mean) == pytest.approx((expected.mean, expected.margin), rel=1e-6, abs=1e-9)


def test_one_seed_decides_nothing_on_the_same_items_either():
    items = {0: (1.0, 2.0, 3.0)}
    found = compare({0: 2.0}, {0: 1.0}, items=(items, {0: (0.0, 1.0, 2.1)}))
    assert (found.low, found.obstacle) == (None, "one seed")


def test_seeds_of_their_own_on_the_same_items():
    random = np.random.default_rng(3)
    first, second = random.normal(size=(3, 40)), random.normal(size=(2, 40))
    items = (dict(enumerate(first.tolist())), dict(enumerate(second.tolist(), start=7)))
    means = [{seed: math.fsum(row) / 40 for seed, row in each.items()} for each in items]
    found = compare(*means, items=items)
    expected = crossed_estimate(first.tolist(), second.tolist())
    assert not found.paired
    assert (found.mean, found.high - found.mean) == pytest.approx((expected.mean, expected.margin), rel=1e-9)


def test_norms_that_are_equal_on_every_item_have_no_interval():
    items = {0: (10.0, 20.0), 1: (30.0, 40.0)}
    found = compare({0: 15.0, 1: 35.0}, {0: 15.0, 1: 35.0}, items=(items, items))
    assert (found.mean, found.low, found.obstacle) == (0.0, None, "no spread")
