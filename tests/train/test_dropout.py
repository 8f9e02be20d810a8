"""Dropout on a GPU: streams, shares and independence, computed here on the CPU. Those of a CPU are
tested with the pack they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from coralx.train.dropout import DropoutOnDevice, hash_words

CPU = torch.device("cpu")
RATES = {"0.q": [0.1, 0.0, 0.5], "1.q": [0.1, 0.0, 0.5], "1.up": [0.0, 0.0, 0.0]}


def _draw(streams: DropoutOnDevice, layer: str, genomes: Sequence[int] = (0, 1, 2)) -> Tensor:
    dropped = streams.draw(
        torch.ones(len(genomes), 301, 33), layer, genomes, lambda t: t[list(genomes)]
    )
    assert dropped is not None
    return dropped


@pytest.fixture
def streams() -> DropoutOnDevice:
    return DropoutOnDevice(RATES, [5, 6, 7], CPU)


def test_each_genome_has_its_own_probability(streams: DropoutOnDevice) -> None:
    shares = _draw(streams, "0.q").float().mean(dim=(1, 2)).tolist()
    assert shares == pytest.approx([0.1, 0.0, 0.5], abs=0.02)
    assert shares[1] == 0


def test_nobody_who_drops_anything_draws_nothing(streams: DropoutOnDevice) -> None:
    x = torch.ones(3, 4, 5)
    assert streams.draw(x, "1.up", [0, 1, 2], lambda t: t) is None
    assert streams.draw(x[:1], "0.q", [1], lambda t: t[1:2]) is None


def test_streams_differ_by_step_layer_and_seed(streams: DropoutOnDevice) -> None:
    first = _draw(streams, "0.q")
    assert first.equal(_draw(streams, "0.q"))
    assert not first.equal(_draw(streams, "1.q"))
    streams.begin_step(1)
    assert not first.equal(_draw(streams, "0.q"))
    streams.begin_step(0)
    assert first.equal(_draw(streams, "0.q"))
    twins = DropoutOnDevice({"0.q": [0.5, 0.5]}, [1, 2], CPU)
    assert not _draw(twins, "0.q", (0, 1))[0].equal(_draw(twins, "0.q", (0, 1))[1])


def test_a_stream_is_the_same_in_any_pack(streams: DropoutOnDevice) -> None:
    alone = DropoutOnDevice({"0.q": [0.5]}, [7], CPU)
    assert _draw(streams, "0.q")[2].equal(_draw(alone, "0.q", (0,))[0])
    assert _draw(streams, "0.q")[2].equal(_draw(streams, "0.q", (2, 0))[0])


def test_a_tensor_that_is_asked_for_later_may_be_larger(streams: DropoutOnDevice) -> None:
    small = streams.draw(torch.ones(3, 2, 3), "0.q", [0, 1, 2], lambda t: t)
    assert small is not None
    assert small.shape == (3, 2, 3)
    assert _draw(streams, "0.q").shape == (3, 301, 33)


def _bits(words: Tensor) -> np.ndarray:
    """(K, n) int32 -> (K, n, 32) of 0 and 1."""
    flat = words.numpy().view(np.uint32)
    return (flat[..., None] >> np.arange(32, dtype=np.uint32)) & 1


def test_words_are_those_of_the_published_finalizer() -> None:
    """Computed with Python's whole numbers."""

    def finalize(x: int, more: int) -> int:
        x = ((x ^ x >> 16) * 0x85EBCA6B + more) % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    assert finalize(1, 0) == 0x514E28B7
    first, second = 0xDEADBEEF, 0x12345678
    own = [[finalize((i * 0x9E3779B9 + first) % 2**32, second) for i in range(100)]]
    seeds = [torch.tensor([[s]]).to(torch.int64).to(torch.int32) for s in (first, second)]
    found = hash_words(torch.arange(100, dtype=torch.int32), *seeds)
    assert (found.long() % 2**32).tolist() == own


def test_bits_are_even_and_independent_of_each_other_and_of_the_next_word() -> None:
    stream = torch.Generator().manual_seed(0)
    seeds = torch.randint(-(2**31), 2**31, (2, 8, 1), generator=stream).to(torch.int32)
    bits = _bits(hash_words(torch.arange(20_000, dtype=torch.int32), seeds[0], seeds[1]))
    signed = bits.reshape(8, 20_000, 32).astype(np.float64) * 2 - 1
    flat = signed.reshape(-1, 32)
    limit = 5 / len(flat) ** 0.5  # five standard errors; 2,048 comparisons
    assert abs(flat.mean(axis=0)).max() < limit
    within = flat.T @ flat / len(flat) - np.eye(32)
    after = signed[:, 1:].reshape(-1, 32).T @ signed[:, :-1].reshape(-1, 32) / len(flat)
    between = signed[0].T @ signed[1] / len(signed[0])
    assert abs(within).max() < limit
    assert abs(after).max() < limit
    assert abs(between).max() < limit * 8**0.5
