"""What a pack does to batches, recorded as CUDA graphs.

A small model's step is hundreds of small operations, which a GPU is through with long before the
host has named the next. A graph names them all at once. It is recorded for batches of one shape, so
there are as many as shapes: lengths are padded to a few (`coralx.train.prefix`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coralx.train.prefix import Batch

# What a pack does to a batch: (batch, targets of it if it trains) -> what is to be known of it.
Step = Callable[[Batch, Tensor | None], Tensor]
Shape = tuple[tuple[int, ...], bool]


@dataclass(frozen=True)
class Inputs:
    """What a step reads, in tensors of its own: `prefix` by the block it enters."""

    prefix: dict[int, Tensor]
    mask: Tensor
    images: Tensor | None
    has_image: Tensor | None
    targets: Tensor | None

    @classmethod
    def of(cls, batch: Batch, targets: Tensor | None, entries: Sequence[int]) -> Inputs:
        prefix = {entry: batch.at(entry) for entry in sorted(set(entries))}
        return cls(prefix, batch.mask, batch.images, batch.has_image, targets)

    @property
    def shape(self) -> Shape:
        return tuple(self.mask.shape), self.images is not None

    def batch(self) -> Batch:
        return Batch(self.mask, self.images, self.has_image, self.prefix.__getitem__)

    def clone(self) -> Inputs:
        prefix = {entry: tensor.clone() for entry, tensor in self.prefix.items()}
        others = (self.images, self.has_image, self.targets)
        return Inputs(prefix, self.mask.clone(), *(t if t is None else t.clone() for t in others))

    def fill(self, other: Inputs) -> None:
        """Take the other's values, of the same shape."""
        for own, new in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(new)

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.prefix.values()
        others = (self.mask, self.images, self.has_image, self.targets)
        yield from (tensor for tensor in others if tensor is not None)


class Recorder:
    """Makes recordings, all in one pool of memory: no two of them are replayed at once, and what
    one leaves behind is read before the next."""

    def __init__(self, device: torch.device) -> None:
        # None can be made on the default stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self.works = True
        self._first = torch.cuda.CUDAGraph()  # keeps the pool while there is no other
        with self.beside(), self._recording(self._first):
            torch.zeros(1, device=device)

    def give_up(self, why: BaseException) -> None:
        """Record nothing more, since torch cannot use the pool again."""
        self.works = False
        said = str(why).splitlines()[0][:200]
        warnings.warn(f"steps are not recorded as CUDA graphs: {said}", stacklevel=2)

    def wrap(self, step: Step, entries: Sequence[int]) -> Step:
        """The step, recorded as it is used: what it gives is overwritten when it is next called.

        Args:
            step: reads nothing but its batch and tensors that stay where they are.
            entries: the blocks where it takes the frozen prefix.
        """
        return RecordedStep(self, step, entries)

    def record(self, run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """What `run` would do, as a graph, and where that will leave what it returns. Nothing is
        computed meanwhile.

        Raises:
            RuntimeError: it waits for the device, or there is no memory for it.
        """
        graph = torch.cuda.CUDAGraph()
        with self.beside(), self._recording(graph):
            found = run()
        return graph, found

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """On a stream of its own, after what was asked for before and before what is next."""
        usual = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(usual)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            usual.wait_stream(self._stream)

    @contextlib.contextmanager
    def _recording(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        # Not torch.cuda.graph, which gives all unused memory back first.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            yield
        except BaseException:
            with contextlib.suppress(RuntimeError):  # that the recording has failed is known
                graph.capture_end()
            raise
        graph.capture_end()


@dataclass(frozen=True)
class Recording:
    """A graph with what it reads and what it leaves behind."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    found: Tensor


class RecordedStep:
    """A step that is run as it is for the first batch of a shape, recorded at the second, and
    replayed from then on. Where one cannot be recorded all go on as they are, with a warning.

    Arguments as of `Recorder.wrap`.
    """

    def __init__(self, recorder: Recorder, step: Step, entries: Sequence[int]) -> None:
        self._recorder, self._step, self._entries = recorder, step, entries
        self._seen: set[Shape] = set()
        self._recordings: dict[Shape, Recording] = {}

    def __call__(self, batch: Batch, targets: Tensor | None) -> Tensor:
        inputs = Inputs.of(batch, targets, self._entries)
        shape = inputs.shape
        if shape in self._seen and shape not in self._recordings and self._recorder.works:
            self._record(inputs)
        if shape not in self._recordings:
            self._seen.add(shape)
            with self._recorder.beside():  # there it sets up what recording it will need
                return self._step(inputs.batch(), targets)
        known = self._recordings[shape]
        known.inputs.fill(inputs)
        known.graph.replay()
        return known.found

    def _record(self, given: Inputs) -> None:
        inputs = given.clone()
        try:
            graph, found = self._recorder.record(lambda: self._step(inputs.batch(), inputs.targets))
        except RuntimeError as error:
            self._recorder.give_up(error)
            return
        self._recordings[given.shape] = Recording(graph, inputs, found)
