"""Recorded steps: what they read and leave behind, and that they are the steps they record.

On a machine without CUDA a recorder stands in for its graphs: it notes the operations of a step and
runs them again on the same tensors, so that what is not in a tensor stays as it was recorded.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from coralx.records import Genome, LoRAConfig
from coralx.settings.sections import TrainingSettings
from coralx.train import adapters, optim
from coralx.train.adapters import PackedAdapters, Weights
from coralx.train.backbone import Backbone
from coralx.train.dropout import DropoutOnDevice
from coralx.train.evaluate import EvaluationSet
from coralx.train.graphs import Inputs, Recorder
from coralx.train.member import Member, StageWork, empty_moments
from coralx.train.network import score
from coralx.train.optim import PackOptimizer, Schedule
from coralx.train.pack_run import Ground
from coralx.train.pack_step import PackStep
from coralx.train.prefix import Batch, EncodedRows
from coralx.train.rows import Rows
from coralx.train.trainer import StageTrainer

pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
GENOMES = [
    Genome(id="deep", lora_cfg=LoRAConfig(r=2, layers="all", target_modules=("all-linear",))),
    Genome(id="shallow", lora_cfg=LoRAConfig(r=4, layers=1, target_modules=("query", "value"))),
]
DROPOUTS = [0.3, 0.1]


class Address:
    """Where a tensor lies, which nobody keeps there for it."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage = weakref.ref(tensor.untyped_storage())
        self._dtype = tensor.dtype
        self._form = tensor.storage_offset(), tensor.size(), tensor.stride()

    def read(self) -> Tensor:
        storage = self._storage()
        assert storage is not None, "a graph reads memory that was freed"
        return torch.empty(0, dtype=self._dtype).set_(storage, *self._form)  # type: ignore[call-overload,no-any-return]


class Notes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations with their tensors, of those made before only where they lie. They are run,
    too, to know what they make; what they change of other tensors is put back at the end, since a
    graph computes nothing meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._noted: list[tuple[Any, Any, Any, Any]] = []
        self.refused = False
        self._own: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            self.refused = True
            raise RuntimeError("operation not permitted when stream is capturing")
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if func._schema.is_mutable:
            for tensor in given:
                key = tensor.untyped_storage()._cdata
                if key not in self._own and key not in self._before:
                    whole = tensor.detach().as_strided(
                        (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0
                    )
                    self._before[key] = (whole, whole.clone())
        out = func(*args, **kwargs)
        known = {t.untyped_storage()._cdata for t in given}
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self._own |= {t.untyped_storage()._cdata for t in made} - known
        args, kwargs = tree_map(self._address, (args, kwargs))
        self._noted.append((func, args, kwargs, tree_map(self._address, out)))
        return out

    def _address(self, part: object) -> object:
        outside = isinstance(part, Tensor) and part.untyped_storage()._cdata not in self._own
        return Address(part) if outside else part  # type: ignore[arg-type]

    def put_back(self) -> None:
        for whole, before in self._before.values():
            whole.copy_(before)
        self._before.clear()

    @torch.no_grad()
    def run(self) -> None:
        for func, *given in self._noted:
            args, kwargs, out = tree_map(
                lambda part: part.read() if isinstance(part, Address) else part, tuple(given)
            )
            found = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(found), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.detach().copy_(new)


class StandInGraph:
    """As torch.cuda.CUDAGraph, with a recorder."""

    made = 0
    replayed = 0

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        self._notes = Notes()
        self._notes.__enter__()

    def capture_end(self) -> None:
        """As CUDA, says again that what was asked for could not be recorded."""
        self._notes.__exit__(None, None, None)
        self._notes.put_back()
        if self._notes.refused:
            raise RuntimeError("operation failed due to a previous error during capture")
        StandInGraph.made += 1

    def replay(self) -> None:
        StandInGraph.replayed += 1
        self._notes.run()


class StandInStream:
    """As torch.cuda.Stream, where all is done at once."""

    device = torch.device("cpu")

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU uses: streams and updates that are kept in tensors, and graphs or a recorder."""
    if GPU:
        return
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 0)
    monkeypatch.setattr(torch.cuda, "Stream", StandInStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", StandInStream)
    monkeypatch.setattr(optim, "RowByRow", optim.AllAtOnce)
    monkeypatch.setattr(
        adapters,
        "DropoutStreams",
        lambda rates, seeds: DropoutOnDevice(rates, seeds, torch.device("cpu")),
    )
    StandInGraph.made = StandInGraph.replayed = 0


@dataclass(frozen=True)
class Case:
    """A base with rows of which every other one has a picture, and where genomes begin."""

    model: Backbone
    rows: EncodedRows
    starts: list[Weights]

    def steps(self, genomes: Sequence[int], recorded: bool, plan: Sequence[Sequence[int]]) -> Any:
        """Losses and norms of each step, and the weights after them."""
        starts = [self.starts[k] for k in genomes]
        dropouts = [DROPOUTS[k] for k in genomes]
        pack = PackedAdapters(starts, [2.0] * len(starts), dropouts, list(genomes), DEVICE)
        optimizer = PackOptimizer(
            pack, [Schedule(2e-3, 30)] * len(starts), [0.1] * len(starts), [0] * len(starts)
        )
        pack.training = True
        step = PackStep(self.model, pack, optimizer, 0.5)
        run = Recorder(DEVICE).wrap(step, pack.entries) if recorded else step
        labels = torch.tensor(self.rows.rows.labels, device=DEVICE).float()
        found = []
        for position, chosen in enumerate(plan):
            pack.begin_step(position)
            optimizer.begin_step()
            targets = labels[torch.tensor(chosen, device=DEVICE)]
            found.append(run(self.rows.batch(chosen), targets).tolist())
        return np.array(found), [pack.take(k, start) for k, start in enumerate(starts)]


@pytest.fixture(scope="module", params=["bert", "qwen3"])
def case(
    request: pytest.FixtureRequest,
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    draw_weights: Callable[..., Weights],
) -> Case:
    from coralx.train.vision import VisionTower

    model = Backbone(tiny_model(request.param).path, DEVICE, torch.float32)
    tower = VisionTower("efficientnet-lite0", tokens=2, device=DEVICE)
    starts = [
        draw_weights(model, genome, k, VisionTower.width, spread=0.1)
        for k, genome in enumerate(GENOMES)
    ]
    return Case(model, EncodedRows(tiny_rows, model, tower, 16), starts)


# Rows 0, 2, 4 have no picture; the shapes of batches differ by that and by their longest text.
PLAN = [[0, 1], [0, 2], [4, 5], [2, 4], [0, 1], [6, 7], [2, 0], [8, 9], [1, 3], [10, 11]]
PLAN += [[*range(0, 12)], [0, 2], [4, 5]]  # a larger one, and those recorded before it


def test_recorded_steps_are_the_steps_themselves(case: Case) -> None:
    """With dropout, warm-up and decay, of batches with pictures and without."""
    expected, wanted = case.steps([0, 1], False, PLAN)
    found, weights = case.steps([0, 1], True, PLAN)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for own, like, start in zip(weights, wanted, case.starts, strict=True):
        assert adapters.largest_difference(own, like) < 1e-4
        assert adapters.largest_difference(_on_cpu(own), start) > 1e-3
    if not GPU:
        assert StandInGraph.made >= 3
        assert StandInGraph.replayed >= 4


def test_a_genome_in_a_recorded_pack_trains_as_alone(case: Case) -> None:
    together, weights = case.steps([0, 1], True, PLAN)
    for k in (0, 1):
        alone, (own,) = case.steps([k], True, PLAN)
        np.testing.assert_allclose(together[:, :, k], alone[:, :, 0], rtol=1e-4)
        assert adapters.largest_difference(own, weights[k]) < 1e-4


def test_recorded_scores_are_the_scores_themselves(case: Case) -> None:
    pack = PackedAdapters(case.starts, [2.0, 1.0], DROPOUTS, [0, 1], DEVICE)

    def run(batch: Batch, _: Tensor | None) -> Tensor:
        return score(case.model, pack, batch)

    recorded = Recorder(DEVICE).wrap(run, pack.entries)
    with torch.no_grad():
        for chosen in PLAN:
            batch = case.rows.batch(chosen)
            torch.testing.assert_close(recorded(batch, None), run(batch, None))


@pytest.mark.skipif(GPU, reason="watches the stand-in's streams")
def test_what_is_new_is_run_beside_and_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both streams wait for each other; the first batch is run, the second recorded."""
    told: list[str] = []

    class Stream(StandInStream):
        def __init__(self, device: object = None) -> None:
            self.name = "usual" if device is self.device else "own"

        def wait_stream(self, other: Any) -> None:
            told.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def within(stream: Stream) -> Iterator[None]:
        told.append("in")
        yield
        told.append("out")

    def step(batch: Batch, _: Tensor | None) -> Tensor:
        told.append("step")
        return batch.mask * 2

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream(Stream.device))
    monkeypatch.setattr(torch.cuda, "stream", within)
    recorded = Recorder(DEVICE).wrap(step, [])
    turn = ["own waits for usual", "in", "step", "out", "usual waits for own"]
    for size, expected in ((2, turn), (2, turn), (2, []), (3, turn), (3, turn), (2, [])):
        told.clear()
        batch = Batch(torch.full((1, size), size), None, None, {}.__getitem__)
        assert recorded(batch, None).tolist() == [[2 * size] * size]
        assert told == expected


def test_a_step_goes_down_the_mean_loss_of_each_genome_clipped(case: Case) -> None:
    labels = torch.tensor(case.rows.rows.labels, device=DEVICE).float()
    chosen = [0, 1, 2]
    batch = case.rows.batch(chosen)
    found = []
    for whole in (True, False):
        pack = PackedAdapters(case.starts, [2.0, 2.0], [0.0, 0.0], [0, 1], DEVICE)
        optimizer = PackOptimizer(pack, [Schedule(2e-3, 0)] * 2, [0.1, 0.1], [0, 0])
        optimizer.begin_step()
        if whole:
            told = PackStep(case.model, pack, optimizer, 0.01)(batch, labels[chosen])
        else:
            logits, truth = score(case.model, pack, batch), labels[chosen]
            each = [functional.binary_cross_entropy_with_logits(own, truth) for own in logits]
            torch.stack(each).sum().backward()
            told = torch.stack([torch.stack(each).detach(), optimizer.clip(0.01)])
            optimizer.step()
        found.append((told, pack.values, optimizer.first))
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)


def test_a_stage_of_recorded_steps_is_the_stage_itself(case: Case) -> None:
    def train(recorder: Recorder | None) -> list[Member]:
        members = [
            Member(genome, genome.lora_cfg, own, empty_moments(own))
            for genome, own in zip(GENOMES, case.starts, strict=True)
        ]
        labels = torch.tensor(case.rows.rows.labels, device=DEVICE).float()
        plan = StageWork([np.array(own) for own in PLAN], [5], 1, 4, last=True, patience=None)
        ground = Ground(case.model, case.rows, labels, TrainingSettings(), 0, recorder)
        trainer = StageTrainer(ground)
        trainer.train(members, plan, lambda pack: [0.5] * pack.size, lambda *_: None)
        return members

    for own, like in zip(train(Recorder(DEVICE)), train(None), strict=True):
        assert len(own.losses) == len(PLAN)
        np.testing.assert_allclose(own.losses, like.losses, rtol=1e-4)
        np.testing.assert_allclose(own.norms, like.norms, rtol=1e-4)
        assert adapters.largest_difference(own.weights, like.weights) < 1e-4
    if not GPU:
        assert StandInGraph.replayed >= 4


def test_recorded_measurements_are_the_measurements_themselves(case: Case) -> None:
    pack = PackedAdapters(case.starts, [2.0, 1.0], DROPOUTS, [0, 1], DEVICE)
    rows = case.rows.rows

    def find(recorder: Recorder | None) -> Any:
        own = EvaluationSet(rows, rows.take([]), 0, 0, lambda _: case.rows, True, recorder)
        return own.score_all(pack, 2, True)

    for found, expected in zip(find(Recorder(DEVICE)), find(None), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    if not GPU:
        assert StandInGraph.replayed >= 1


def test_what_cannot_be_recorded_is_run_as_it_is(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that asks for a value waits for the device, which a graph cannot."""
    clip = PackOptimizer.clip

    def ask(own: PackOptimizer, limit: float | None) -> Tensor:
        norms = clip(own, limit)
        assert norms.sum().item() >= 0
        return norms

    expected, _ = case.steps([0, 1], False, PLAN)
    monkeypatch.setattr(PackOptimizer, "clip", ask)
    with pytest.warns(UserWarning, match="as CUDA graphs: .*not permitted") as told:
        found, _ = case.steps([0, 1], True, PLAN)
    assert len([w for w in told if "CUDA graphs" in str(w.message)]) == 1
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_an_interrupt_ends_a_recording() -> None:
    """Also where the recording had failed before."""

    def interrupt(*_: object) -> None:
        with contextlib.suppress(RuntimeError):
            torch.ones(1, device=DEVICE).sum().item()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Recorder(DEVICE).record(interrupt)  # type: ignore[arg-type]


def test_inputs_take_the_values_of_others_of_their_shape() -> None:
    def make(value: float) -> Inputs:
        prefix = {0: torch.full((2, 3, 4), value), 1: torch.full((2, 3, 4), -value)}
        mask = torch.full((2, 3), value > 1)
        pictures = torch.full((2, 1, 5), value), torch.full((2,), value > 1)
        return Inputs(prefix, mask, *pictures, torch.full((2,), value))

    one, two = make(1.0), make(2.0)
    kept = one.clone()
    kept.fill(two)
    assert one.shape == two.shape == ((2, 3), True)
    assert float(kept.prefix[0].sum() + kept.prefix[1].sum()) == 0
    assert float(kept.prefix[1][0, 0, 0]) == -2
    assert bool(kept.mask.all() and kept.batch().has_image.all())  # type: ignore[union-attr]
    assert kept.batch().at(1) is kept.prefix[1]
    assert float(kept.targets.sum() + kept.images.sum()) == 4 + 20  # type: ignore[union-attr]
    assert float(one.targets.sum()) == 2, "a clone is a copy"


def _on_cpu(weights: Weights) -> Weights:
    lora = {target: (a.cpu(), b.cpu()) for target, (a, b) in weights.lora.items()}
    return Weights(lora, {name: value.cpu() for name, value in weights.extra.items()})
