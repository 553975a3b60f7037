"""Schedules at their edges, keys, and what counts as a sign of masked gradients."""

import math

import pytest

from adversarial.protocol import attack_key, learning_rate_factor, masking_warnings


def test_schedules_at_their_edges():
    def at(schedule, *steps):
        return [learning_rate_factor(step, total_steps=100, schedule=schedule) for step in steps]

    assert at("constant", 0, 50, 99) == [1, 1, 1]
    assert at("steps", 0, 49, 50, 74, 75, 99) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert at("cosine", 0, 25, 50, 75, 100) == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    )
    assert at("cosine", 101) == at("cosine", 100), "the step after the last one is asked for, too"


def test_keys_differ_and_are_the_same_everywhere():
    keys = {attack_key("train", seed, epoch, batch) for seed in (0, 1) for epoch in range(10) for batch in range(50)}
    assert len(keys) == 1000
    assert all(0 <= key < 2**31 for key in keys)
    assert attack_key("train", 0, 1, 2, 0) == KEY


KEY = 2023489534


@pytest.mark.parametrize(
    ("accuracies", "curve", "words"),
    [
        ({"PGD-4": 50.0, "PGD-20": 48.0, "square": 55.0}, [(0, 70), (4, 48), (64, 0.5)], []),
        ({"PGD-4": 50.0, "PGD-20": 50.5}, [], []),
        ({"PGD-4": 50.0, "PGD-20": 52.0}, [], ["PGD-20 leaves 52.0 % and the weaker PGD-4 50.0 %"]),
        ({"PGD-20": 40.0, "AutoAttack": 45.0}, [], ["AutoAttack leaves 45.0 % and the weaker PGD-20 40.0 %"]),
        ({"PGD-4": 50.0, "PGD-20": 48.0, "square": 30.0}, [], ["Square, which sees no gradients, leaves 30.0 %"]),
        ({}, [(0, 70), (1, 60), (2, 65), (64, 0)], ["rises from 60.0 % to 65.0 % as eps grows from 1/255 to 2/255"]),
        ({}, [(0, 70), (64, 20)], ["still 20.0 % at eps = 64/255"]),
        ({}, [(0, 70), (64, 4.9)], []),
    ],
)
def test_signs_of_masked_gradients(accuracies, curve, words):
    warnings = masking_warnings(accuracies, curve=curve, chance=10)
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings))
