"""P4 by measurement: what a genome takes to serve, the most bytes of tensors alive while it scores
a batch among them. What a pack will take is a forecast: `coralx.search.footprint`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from coralx.train.adapters import PackedAdapters, Weights, flatten
from coralx.train.backbone import Backbone
from coralx.train.network import score
from coralx.train.prefix import Batch, EncodedRows
from coralx.train.vision import VisionTower


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages made under it while they live; `peak` is their maximum.

    Deterministic and exact for what torch allocates on any device, unlike the resident size of
    a process, which depends on the allocator and on what ran before.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._live = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {
            t.untyped_storage()._cdata
            for t in tree_leaves((args, kwargs))
            if isinstance(t, torch.Tensor)
        }
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._track(leaf.untyped_storage(), before)
        return out

    def _track(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key = storage._cdata
        if key in self._seen or key in before:  # a view, or an argument changed in place
            return
        size = storage.nbytes()
        self._seen[key] = size
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._live -= self._seen.pop(key, 0)


def measure_peak(run: Callable[[], object]) -> int:
    """Bytes that `run` needs at its peak beyond what was alive before it."""
    counter = PeakBytes()
    with torch.no_grad(), counter:
        run()
    return counter.peak


class ServedMemory:
    """P4 of genomes on one base and tower.

    Args:
        rows: one evaluation batch of the longest rows.
        images: pictures of one evaluation batch; the tower takes them in parts, as in use.
    """

    def __init__(
        self,
        backbone: Backbone,
        tower: VisionTower | None,
        rows: EncodedRows,
        images: Sequence[bytes],
    ) -> None:
        self._backbone, self._tower, self._rows, self._images = backbone, tower, rows, images
        self._peaks: dict[str, int] = {}

    def measure(self, weights: Weights, pack: PackedAdapters) -> int:
        """Bytes of base, tower, adapter, and the peak of activations.

        The peak is measured once per rank and targets from the genome's entry on, once per depth
        below it, and once for the tower. `pack` must hold the genome alone.
        """
        ready = self._rows.batch(range(len(self._rows)))
        with self._backbone.products.exact():
            above = self._adapted_peak(weights, pack, ready)
            below = max(self._prefix_peak(weights.entry, ready.mask), self._tower_peak())
        own = sum(value.numel() for value in flatten(weights).values())
        frozen = self._backbone.weight_bytes() + (self._tower.weight_bytes() if self._tower else 0)
        return frozen + 4 * own + max(above, below)

    def _adapted_peak(self, weights: Weights, pack: PackedAdapters, ready: Batch) -> int:
        """From the genome's entry on, once for all genomes of its rank and targets."""
        shapes = {target: tuple(a.shape) for target, (a, _) in weights.lora.items()}
        key = f"{shapes}"
        if key not in self._peaks:
            # Its making is not part of what is measured, whether `training.prefix_cache` keeps it
            # or not: `_prefix_peak` counts what a server takes for it.
            known = ready.at(weights.entry)
            entered = replace(ready, at=lambda _: known.clone())
            self._peaks[key] = measure_peak(lambda: score(self._backbone, pack, entered))
        return self._peaks[key]

    def _tower_peak(self) -> int:
        tower, images = self._tower, self._images
        if tower is None or not images:
            return 0
        if "tower" not in self._peaks:
            part = images[: tower.batch]
            self._peaks["tower"] = measure_peak(lambda: tower.compute(part))
        return self._peaks["tower"]

    def _prefix_peak(self, depth: int, mask: Tensor) -> int:
        """Of the blocks below `depth`, which a server runs as well."""
        key = f"{depth}/{tuple(mask.shape)}"
        if key not in self._peaks:
            shape = (*mask.shape, self._backbone.hidden)
            hidden = torch.zeros(shape, dtype=self._backbone.dtype, device=mask.device)

            def run_blocks() -> None:
                value = hidden
                for index in range(depth):
                    value = self._backbone.run(value, mask, index)

            self._peaks[key] = measure_peak(run_blocks) if depth else 0
        return self._peaks[key]
