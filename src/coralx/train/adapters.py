"""K LoRA adapters around one frozen linear layer, trained in one batch.

    y_k = x_k W^T + b + scale_k * (dropout_k(x_k) A_k^T) B_k^T        for genome k of K

(Hu et al. 2021, arXiv:2106.09685, eq. 3; packing after mLoRA, arXiv:2312.02515.) The frozen
product sees one tall matrix; the adapters are a batched product of stacked A (K, R, in) and
transposed B (K, R, out). Ranks are padded to the pack's largest: padded rows are zero, get zero
gradients and so stay zero. No value ever crosses from one genome to another, so a NaN in one leaves
the others as they were.

Letters: K genomes, B rows, T tokens, D features, R rank, V vision features.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coralx.train.dropout import DropoutOnDevice, DropoutStreams
from coralx.train.frozen import FrozenProducts
from coralx.train.low_rank import add_low_rank


@dataclass(frozen=True)
class Weights:
    """One genome's trained weights: `lora` maps target -> (A (r, in), B (out, r)); `extra` holds
    the classification layer and, with images, the projector."""

    lora: dict[str, tuple[Tensor, Tensor]]
    extra: dict[str, Tensor]

    @functools.cached_property
    def entry(self) -> int:
        """The block where its adapters begin."""
        return min(map(_block_of, self.lora))


def flatten(weights: Weights) -> dict[str, Tensor]:
    """Each tensor under a name of its own."""
    tensors = {f"extra/{name}": value for name, value in weights.extra.items()}
    for target, (a, b) in weights.lora.items():
        tensors[f"lora/{target}/A"], tensors[f"lora/{target}/B"] = a, b
    return tensors


def largest_difference(one: Weights, other: Weights) -> float:
    """Between two values at the same place; infinite where shapes or names differ."""
    before, after = flatten(one), flatten(other)
    if {k: v.shape for k, v in before.items()} != {k: v.shape for k, v in after.items()}:
        return float("inf")
    return max(float((before[k].double() - after[k].double()).abs().max()) for k in before)


def all_finite(weights: Weights) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(torch.isfinite(t).all()) for t in flatten(weights).values())


class PackedAdapters:
    """The trainable weights of K genomes in one flat matrix, a row per genome.

    Each tensor of the pack is a view of `values` (K, P) whose gradient is a view of `gradients`
    (K, P): clipping and AdamW then work on whole rows. `entries`: of each genome, the block where
    its adapters begin.

    Args:
        weights: of each genome; a target that a genome does not adapt stays zero for it.
        scales: alpha / r (or its rsLoRA form) of each genome.
        dropouts: probability of each genome.
        seeds: of each genome's own dropout stream.
    """

    def __init__(
        self,
        weights: Sequence[Weights],
        scales: Sequence[float],
        dropouts: Sequence[float],
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        self.size = len(weights)
        self.entries = [own.entry for own in weights]
        self.training = False
        self.scales = torch.tensor(scales, dtype=torch.float32, device=device)[:, None, None]
        kept = torch.tensor([1 - p for p in dropouts], dtype=torch.float32, device=device)
        self._training_scales = self.scales / kept[:, None, None]
        self._present: list[int] | None = None
        self._indices: dict[tuple[int, ...], Tensor] = {}
        self._lora_shapes, self._extra_shapes = _shapes(weights)
        # Of each genome by target; one that does not adapt it needs no random numbers there.
        rates = {
            target: [
                p if target in own.lora else 0.0 for own, p in zip(weights, dropouts, strict=True)
            ]
            for target in self._lora_shapes
        }
        on_cpu = device.type == "cpu"
        self._streams: DropoutStreams | DropoutOnDevice = (
            DropoutStreams(rates, seeds) if on_cpu else DropoutOnDevice(rates, seeds, device)
        )
        total = sum(a.numel() + b.numel() for a, b in self._lora_shapes.values())
        total += sum(shape.numel() for shape in self._extra_shapes.values())
        self.values = torch.zeros(self.size, total, device=device)
        self.gradients = torch.zeros_like(self.values)
        self._spans: dict[str, slice] = {}
        self.lora: dict[str, tuple[Tensor, Tensor]] = {}
        self.extra: dict[str, Tensor] = {}
        self._lay_out()
        for k, own in enumerate(weights):
            self.put(k, own)

    def begin_step(self, step: int) -> None:
        """Clear gradients and move every dropout stream to `step` of its genome."""
        self.gradients.zero_()
        self._streams.begin_step(step)

    def select(self, genomes: Sequence[int]) -> None:
        """Say which genomes the tall matrix holds from now on, and in which order."""
        everyone = list(genomes) == list(range(self.size))
        self._present = None if everyone else list(genomes)

    @property
    def present(self) -> Sequence[int]:
        """The genomes that the tall matrix holds, in its order."""
        return range(self.size) if self._present is None else self._present

    def index(self, genomes: Sequence[int]) -> Tensor:
        """Their places as an index on the device. Made once: a list would be sent there anew each
        time, and a GPU's queue runs dry while the processor waits for that."""
        key = tuple(genomes)
        if key not in self._indices:
            self._indices[key] = torch.tensor(key, device=self.values.device)
        return self._indices[key]

    def dropout(self, x: Tensor, target: str) -> Tensor | None:
        """Which values of x (present, N, in) are left out, each genome's with its own probability
        and stream; None if nobody's are."""
        if not self.training:
            return None
        return self._streams.draw(x, target, self.present, self._pick)

    def add(self, out: Tensor, x: Tensor, target: str) -> Tensor:
        """A layer's output (present x N, ..., out) with the adapters' share of the genomes
        selected added in place; x: (present x N, ..., in)."""
        pair = self.lora.get(target)
        if pair is None:
            return out
        a, b = (self._pick(part).to(x.dtype) for part in pair)
        tall = x.reshape(len(a), -1, x.shape[-1])
        scales = self._pick(self._training_scales if self.training else self.scales).to(x.dtype)
        return add_low_rank(out, tall, a, b, scales, self.dropout(tall, target))

    def take(self, k: int, like: Weights, flat: Tensor | None = None) -> Weights:
        """Copies of genome k's tensors, unpadded, from `values` or a matrix laid out alike."""
        source = self.values if flat is None else flat
        lora = {}
        for target, (a, b) in like.lora.items():
            shape_a, shape_b = self._lora_shapes[target]
            full_a = source[k, self._spans[target + "/A"]].view(shape_a)
            full_b = source[k, self._spans[target + "/B"]].view(shape_b)
            own_b = full_b[: b.shape[1]].t().clone(memory_format=torch.contiguous_format)
            lora[target] = (full_a[: len(a)].clone(), own_b)
        extra = {
            name: source[k, self._spans[name]].view(shape).clone()
            for name, shape in self._extra_shapes.items()
        }
        return Weights(lora, extra)

    def put(self, k: int, own: Weights, flat: Tensor | None = None) -> None:
        """Write genome k's tensors into `values` or a matrix laid out alike."""
        flat = self.values if flat is None else flat
        for target, (a, b) in own.lora.items():
            shape_a, shape_b = self._lora_shapes[target]
            flat[k, self._spans[target + "/A"]].view(shape_a)[: len(a)] = a
            flat[k, self._spans[target + "/B"]].view(shape_b)[: b.shape[1]] = b.t()
        for name, value in own.extra.items():
            flat[k, self._spans[name]].view(value.shape).copy_(value)

    def _pick(self, stacked: Tensor) -> Tensor:
        """The rows of the genomes selected; a view where they come first, in order."""
        chosen = self._present
        if chosen is None:
            return stacked
        first = chosen == list(range(len(chosen)))
        return stacked[: len(chosen)] if first else stacked[self.index(chosen)]

    def _lay_out(self) -> None:
        """Cut the flat matrices into leaf tensors with their gradients in place."""
        offset = 0

        def cut(name: str, shape: torch.Size) -> Tensor:
            nonlocal offset
            span = slice(offset, offset + shape.numel())
            offset = span.stop
            self._spans[name] = span
            leaf = self.values[:, span].view(self.size, *shape).detach().requires_grad_()
            leaf.grad = self.gradients[:, span].view(self.size, *shape)
            return leaf

        for target, (shape_a, shape_b) in self._lora_shapes.items():
            self.lora[target] = (cut(target + "/A", shape_a), cut(target + "/B", shape_b))
        for name, shape in self._extra_shapes.items():
            self.extra[name] = cut(name, shape)


class AtWork(threading.local):
    """The pack that passes through the base model, one in each thread."""

    pack: PackedAdapters | None = None


class AdaptedLinear(nn.Module):
    """A frozen linear layer that adds the adapters of the pack at work, if there is one."""

    def __init__(
        self, target: str, base: nn.Module, products: FrozenProducts, at_work: AtWork
    ) -> None:
        super().__init__()
        assert isinstance(base, nn.Linear)  # noqa: S101 - a type, not a user error
        self.target = target
        self.base = base
        self._products = products
        self._at_work = at_work

    def forward(self, x: Tensor) -> Tensor:
        out = self._products.apply(self.base, x)
        pack = self._at_work.pack
        return out if pack is None else pack.add(out, x, self.target)

    def share(self, x: Tensor) -> Tensor:
        """What the layer makes for each genome P at work of that which is the same for all of them:
        (N, in) -> (P, N, out). P is 1 where no genome adapts the layer."""
        out, pack = self._products.apply(self.base, x[None]), self._at_work.pack
        if pack is None or self.target not in pack.lora:
            return out
        count = len(pack.present)
        return pack.add(out.repeat(count, 1, 1), x.expand(count, *x.shape), self.target)


def _shapes(
    weights: Sequence[Weights],
) -> tuple[dict[str, tuple[torch.Size, torch.Size]], dict[str, torch.Size]]:
    """The shape of each target's padded A and transposed B, and of each extra tensor, over the
    pack. Ranks are padded to the largest among the genomes that adapt the target."""
    lora: dict[str, tuple[torch.Size, torch.Size]] = {}
    extra: dict[str, torch.Size] = {}
    for own in weights:
        for target, (a, b) in own.lora.items():
            rank = max(len(a), lora[target][0][0] if target in lora else 0)
            lora[target] = (torch.Size((rank, a.shape[1])), torch.Size((rank, b.shape[0])))
        extra.update({name: value.shape for name, value in own.extra.items()})
    targets = sorted(lora, key=lambda target: (_block_of(target), target))
    return {target: lora[target] for target in targets}, extra


def _block_of(target: str) -> int:
    return int(target.partition(".")[0])


def new_weights(
    targets: Sequence[str],
    rank: int,
    linear: Callable[[str], AdaptedLinear],
    width: int,
    vision: int | None,
    generator: torch.Generator,
    given: Mapping[str, Tensor],
) -> Weights:
    """Fresh weights: A uniform as peft draws it (Kaiming, a = sqrt 5), B zero, so dW = 0.

    Args:
        linear: gives the layer of a target.
        width: D, of what the classification layer reads.
        vision: V, the width of image features, or None for text alone.
        given: what starts as the base has it, by name: see `Backbone.given`.
    """
    lora = {}
    for target in targets:
        base = linear(target).base
        bound = base.in_features**-0.5
        a = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        lora[target] = (a, torch.zeros(base.out_features, rank))
    extra = {"head.weight": torch.empty(1, width).normal_(0, 0.02, generator=generator)}
    extra |= {name: value.clone() for name, value in given.items()}
    if vision is not None:
        projector = torch.empty(width, vision).normal_(0, vision**-0.5, generator=generator)
        extra["projector.weight"] = projector
        extra["projector.bias"] = torch.zeros(width)
    return Weights(lora, extra)
