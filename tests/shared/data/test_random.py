"""Counter-based randomness against a big-integer reference and statistical laws."""

import hashlib
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.random import epoch_permutation, hash_bits, hash_uniform

MASK = (1 << 64) - 1


def reference_mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def reference_bits(index: int, seed: int, epoch: int, stream: str) -> int:
    key = int.from_bytes(hashlib.sha256(f"{stream}|{seed}|{epoch}".encode()).digest()[:8], "little")
    counter = ((index + 1) * 0x9E3779B97F4A7C15 + key) & MASK
    return reference_mix(reference_mix(counter) ^ key)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 2**62), min_size=1, max_size=8),
    st.integers(-(2**40), 2**70),
    st.integers(0, 10**6),
    st.sampled_from(["flip", "crop_x", "ß"]),
)
def test_equals_unsigned_integer_arithmetic(indices, seed, epoch, stream):
    expected = [reference_bits(index, seed, epoch, stream) for index in indices]
    bits = hash_bits(torch.tensor(indices), seed=seed, epoch=epoch, stream=stream)
    assert [value & MASK for value in bits.tolist()] == expected
    uniform = hash_uniform(torch.tensor(indices), seed=seed, epoch=epoch, stream=stream)
    assert uniform.dtype == torch.float32
    assert uniform.tolist() == [(value >> 40) / 2**24 for value in expected]


def test_mix_is_splitmix64():
    # first outputs of the published generator for seed 0 (Vigna's splitmix64.c): mix(k * increment)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [reference_mix((k * 0x9E3779B97F4A7C15) & MASK) for k in (1, 2, 3)] == expected


def test_numbers_are_uniform():
    numbers = hash_uniform(torch.arange(200_000), seed=3, epoch=1, stream="flip").double()
    counts = torch.histc(numbers, bins=256, min=0, max=1)
    chi_square = float(((counts - 200_000 / 256) ** 2 / (200_000 / 256)).sum())
    assert 160 < chi_square < 370  # 255 degrees of freedom: mean 255, standard deviation 22.6
    assert abs(float(numbers.mean()) - 0.5) < 4 * (1 / 12 / 200_000) ** 0.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"stream": "crop_x"}, {"stream": "crop_y"}),
        ({"seed": 0}, {"seed": 1}),
        ({"epoch": 0}, {"epoch": 1}),
        ({"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}),
    ],
)
def test_streams_seeds_and_epochs_are_independent(first, second):
    keys = {"seed": 7, "epoch": 2, "stream": "flip"}
    numbers = [hash_uniform(torch.arange(50_000), **{**keys, **change}).double() for change in (first, second)]
    table = torch.histogramdd(torch.stack(numbers, 1), bins=[16, 16], range=[0.0, 1.0, 0.0, 1.0]).hist
    chi_square = float(((table - 50_000 / 256) ** 2 / (50_000 / 256)).sum())
    assert 160 < chi_square < 370


def test_neighbouring_indices_are_independent():
    numbers = hash_uniform(torch.arange(100_001), seed=0, epoch=0, stream="flip").double()
    for lag in (1, 2, 64):
        pairs = torch.stack([numbers[:-lag], numbers[lag:]])
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 4 / 100_000**0.5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 300), st.integers(0, 1000), st.integers(0, 1000))
def test_permutation_holds_every_item_once(num_items, seed, epoch):
    order = epoch_permutation(num_items, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_items))


def test_permutation_is_pinned_and_changes_with_epoch_and_seed():
    orders = {
        (seed, epoch): tuple(epoch_permutation(20, seed=seed, epoch=epoch).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    by_key = sorted(range(20), key=lambda i: reference_bits(i, 1, 1, "epoch_permutation") ^ (1 << 63))
    assert list(orders[1, 1]) == by_key  # signed order: flip the sign bit


def test_every_place_is_equally_likely():
    places = torch.stack([epoch_permutation(8, seed=seed, epoch=0) for seed in range(4000)])
    counts = np.stack([np.bincount(places[:, place].numpy(), minlength=8) for place in range(8)])
    assert np.abs(counts - 500).max() < 5 * 500**0.5


def test_global_generator_is_untouched():
    before = torch.get_rng_state()
    hash_uniform(torch.arange(5), seed=0, epoch=0, stream="flip")
    epoch_permutation(5, seed=0, epoch=0)
    assert torch.equal(before, torch.get_rng_state())


def test_messages():
    with pytest.raises(TypeError, match=r"^indices must be an int64 tensor; got torch.int32.$"):
        inspect.unwrap(hash_bits)(torch.arange(3, dtype=torch.int32), seed=0, epoch=0, stream="flip")
    with pytest.raises(ValueError, match=r"^num_items must be at least 0; got -1.$"):
        epoch_permutation(-1, seed=0, epoch=0)
