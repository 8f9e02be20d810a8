"""P4 by measurement: the most bytes of tensors alive while a genome scores a batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
