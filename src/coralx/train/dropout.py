"""Which values dropout leaves out: each genome's with its own probability and stream.

A stream depends on genome, step and layer alone, never on the pack the genome trains in.

Letters: K genomes, N tokens of each, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from coralx.train.seeds import hash_name, mix
from coralx.train.transfer import send

STEP_SALT = 1_000_003
Pick = Callable[[Tensor], Tensor]  # of what is stacked for all genomes, (K, ...), those at work
CHANCES = 65_536  # probabilities are rounded to 1 / 65536, so that a value takes 16 random bits


class DropoutStreams:
    """The random bits of a pack, on a CPU.

    Torch draws on one core at 5 ns a value, which took a third of a step; 16 raw bits do.

    Args:
        rates: of each layer, every genome's probability.
        seeds: of each genome.
    """

    def __init__(self, rates: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> None:
        self._rates, self._seeds = rates, tuple(seeds)
        self._step = 0

    def begin_step(self, step: int) -> None:
        """Move every stream to `step` of its genome."""
        self._step = step

    def draw(self, x: Tensor, layer: str, genomes: Sequence[int], _pick: Pick) -> Tensor | None:
        """True where a value of x (genomes, N, in) is left out; None if none is of any genome."""
        rates = [self._rates[layer][k] for k in genomes]
        if not any(rates):
            return None
        salt = STEP_SALT * self._step + hash_name(layer)
        dropped = torch.zeros(x.shape, dtype=torch.bool)
        for own, p, k in zip(dropped, rates, genomes, strict=True):
            if p > 0:
                source = np.random.SFC64((self._seeds[k] + salt) % 2**63)
                bits = source.random_raw(-(-own.numel() // 4)).view(np.uint16)[: own.numel()]
                np.less(bits, round(p * CHANCES), out=own.view(-1).numpy())
        return dropped


class DropoutOnDevice:
    """The same for a GPU, where a step's time is about the number of its operations: all genomes
    at once, by a hash of their seeds and a value's place, as counter-based generators do it
    (Salmon et al. 2011, doi:10.1145/2063384.2063405). What differs from step to step is kept in
    tensors, so that a step can be recorded once and replayed.
    """

    def __init__(
        self, rates: Mapping[str, Sequence[float]], seeds: Sequence[int], device: torch.device
    ) -> None:
        self._rates = rates
        self._places = {layer: place for place, layer in enumerate(rates)}
        limits = np.array([[round(p * CHANCES) for p in own] for own in rates.values()])
        # A value is left out if its 16 bits, as a signed number, lie below.
        self._limits = send((limits - CHANCES // 2).astype(np.int32)[..., None, None], device)
        names = np.array([hash_name(layer) for layer in rates], dtype=np.uint64)
        self._names = names[:, None] + np.array(seeds, dtype=np.uint64)
        self._seeds = torch.zeros(*self._names.shape, 2, 1, dtype=torch.int32, device=device)
        self.begin_step(0)

    def begin_step(self, step: int) -> None:
        """Move every stream to `step` of its genome."""
        words = mix(self._names + np.uint64(STEP_SALT * step % 2**64))
        halves = np.stack([words, words >> np.uint64(32)], axis=-1).astype(np.uint32)
        self._seeds.copy_(send(halves.view(np.int32)[..., None], self._seeds.device))

    def draw(self, x: Tensor, layer: str, genomes: Sequence[int], pick: Pick) -> Tensor | None:
        """As `DropoutStreams.draw`, from other streams."""
        if not any(self._rates[layer][k] for k in genomes):
            return None
        place, size = self._places[layer], x[0].numel()
        seeds = pick(self._seeds[place])
        ticks = torch.arange(-(-size // 2), dtype=torch.int32, device=x.device)
        words = hash_words(ticks, seeds[:, 0], seeds[:, 1])
        bits = words.view(torch.int16)[:, :size].view(x.shape)
        return bits < pick(self._limits[place])


def hash_words(ticks: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """32 random bits for each of `ticks` (n,) of streams of two seeds each, (K, 1): (K, n), all
    int32, whose products wrap around. The finalizer of MurmurHash3 (Appleby 2011), with the second
    seed added on the way: the first alone would make of every stream a part of one and the same."""
    x = ticks * _signed(0x9E3779B9) + first
    x = _fold(x, 16).mul_(_signed(0x85EBCA6B)).add_(second)
    x = _fold(x, 13).mul_(_signed(0xC2B2AE35))
    return _fold(x, 16)


def _fold(x: Tensor, shift: int) -> Tensor:
    """x ^ (x >> shift), as of unsigned numbers."""
    return (x >> shift).bitwise_and_((1 << (32 - shift)) - 1).bitwise_xor_(x)


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word
