"""Counter-based randomness: a number is a function of (seed, stream, epoch, index), never of a generator's history.

An image is therefore augmented in the same way whichever batch, rank, worker process or device handles it, and a
resumed run draws what the uninterrupted one would have drawn.
"""

import hashlib

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_MASK_64 = (1 << 64) - 1
# SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): the increment
# (odd, near 2^64 / golden ratio) and the two multipliers of its output function.
_INCREMENT = 0x9E3779B97F4A7C15
_FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9
_SECOND_MULTIPLIER = 0x94D049BB133111EB
_FLOAT32_BITS = 24


def hash_bits(indices: Int64[Tensor, "*shape"], *, seed: int, epoch: int, stream: str) -> Int64[Tensor, "*shape"]:
    """Hash each index to 64 bits with SplitMix64's output function, held in an int64.

    ``key = first 8 bytes of SHA-256(stream, seed, epoch)``; ``h(i) = mix(mix(key + (i + 1) * increment) ^ key)``.

    Args:
        indices: Counters, any shape, on any device.
        seed: Seed of the run.
        epoch: Epoch number; use 0 where the draw must not change between epochs.
        stream: Name of the draw, for instance ``"flip"``; different names give independent numbers.

    Returns:
        One int64 per index, all 64 bits uniform (so negative half of the time), on the device of ``indices``.

    Raises:
        TypeError: ``indices`` is not int64.
    """
    if indices.dtype != torch.int64:
        raise TypeError(f"indices must be an int64 tensor; got {indices.dtype}.")
    key = _key(seed=seed, epoch=epoch, stream=stream)
    # int64 multiplication wraps modulo 2^64 on every device, which is what unsigned arithmetic would give
    counters = (indices + 1) * _signed(_INCREMENT) + _signed(key)
    return _mix(_mix(counters) ^ _signed(key))


def hash_uniform(indices: Int64[Tensor, "*shape"], *, seed: int, epoch: int, stream: str) -> Float[Tensor, "*shape"]:
    """Draw one uniform float32 in [0, 1) per index: the top 24 bits of `hash_bits` divided by 2^24.

    Args:
        indices: Counters (image numbers), any shape, int64, on any device.
        seed: Seed of the run.
        epoch: Epoch number; use 0 where the draw must not change between epochs.
        stream: Name of the draw; different names give independent numbers.

    Returns:
        float32 numbers of the shape of ``indices``, bit-equal on every device.

    Raises:
        TypeError: ``indices`` is not int64.
    """
    bits = hash_bits(indices, seed=seed, epoch=epoch, stream=stream)
    return _shift_right(bits, 64 - _FLOAT32_BITS).to(torch.float32) * 2.0**-_FLOAT32_BITS


def epoch_permutation(num_items: int, *, seed: int, epoch: int) -> Int64[Tensor, " num_items"]:
    """Return the order of ``num_items`` items in one epoch: the indices sorted by their hash.

    Args:
        num_items: Number of items, at least 0.
        seed: Seed of the run.
        epoch: Epoch number.

    Returns:
        A permutation of ``0 … num_items - 1`` on the CPU, the same on every machine.

    Raises:
        ValueError: ``num_items`` is negative.
    """
    if num_items < 0:
        raise ValueError(f"num_items must be at least 0; got {num_items}.")
    keys = hash_bits(torch.arange(num_items), seed=seed, epoch=epoch, stream="epoch_permutation")
    return torch.argsort(keys, stable=True)


def _key(*, seed: int, epoch: int, stream: str) -> int:
    digest = hashlib.sha256(f"{stream}|{seed}|{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _signed(value: int) -> int:
    value &= _MASK_64
    return value - (1 << 64) if value >> 63 else value


def _shift_right(bits: Tensor, count: int) -> Tensor:
    # torch shifts int64 arithmetically: clear the copies of the sign bit
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _signed(_FIRST_MULTIPLIER)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_SECOND_MULTIPLIER)
    return bits ^ _shift_right(bits, 31)
