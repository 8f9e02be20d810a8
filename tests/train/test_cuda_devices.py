"""Training and use on CUDA: on a GPU if there is one, else on a stand-in that says where each
tensor would lie.

Torch's own fake tensors cannot go backwards here (autograd asks for CUDA's libraries), so this
keeps real values in main memory and a note of which storages stand for memory of the device. It
refuses what CUDA refuses: operations on tensors of both sides, `numpy()` of one of the device's, a
generator of the other side. What CUDA's kernels compute, and how fast, it cannot say.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Start, TrainingResult
from coralx.train import backbone as backbone_module
from coralx.train import frozen, naive, predict, workbench
from coralx.train.adapters import PackedAdapters, Weights
from coralx.train.backbone import Backbone
from coralx.train.naive import NaiveTrainer
from coralx.train.optim import PackOptimizer, Schedule
from coralx.train.pack_step import PackStep
from coralx.train.predict import Predictor
from coralx.train.prefix import EncodedRows
from coralx.train.prefix_store import PrefixStore
from coralx.train.pretrained import load_classifier
from coralx.train.rows import Rows
from coralx.train.transfer import send
from coralx.train.vision import VisionTower
from coralx.train.worker import Worker

pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GET_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]
GET_IS_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]
aten = torch.ops.aten
# Take tensors of both sides: a copy, and an index, whose places may lie in main memory.
MIXING = {aten.copy_.default}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class Memory:
    """Which storages stand for memory of the device, and how often the host has waited for it."""

    is_real = False

    def __init__(self) -> None:
        self._held: dict[int, object] = {}
        self.waits = 0

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._held

    def take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            self._held[key] = weakref.finalize(storage, self._held.pop, key, None)

    def move(self, tensor: Tensor, to_device: bool, waits: bool) -> Tensor:
        """A tensor on that side: itself or, if it is on the other, a copy."""
        if self.holds(tensor) is to_device:
            return tensor
        self.waits += waits
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            moved = tensor.clone()
        if to_device:
            self.take(moved)
        return moved


class Dispatched(TorchDispatchMode):
    """What an operation on the device makes lies there; the other side's tensors are refused."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            memory, kwargs = self._memory, kwargs or {}
            given = [t for t in leaves(args, kwargs) if isinstance(t, Tensor)]
            on_device = [memory.holds(t) for t in given]
            if any(on_device):
                self._check(func, args, given, on_device)
            before = {t.untyped_storage()._cdata for t in given}
            out = func(*args, **kwargs)
            for made in leaves(out):
                if not isinstance(made, Tensor) or not any(on_device):
                    continue
                if made.untyped_storage()._cdata not in before:
                    memory.take(made)
            return out

    def _check(self, func: Any, args: Any, given: list[Tensor], on_device: list[bool]) -> None:
        memory = self._memory
        if func in (aten._local_scalar_dense.default, aten.nonzero.default):
            memory.waits += 1
        if func in INDEXING:
            places = [t for t in args[1] if t is not None]
            memory.waits += any(not memory.holds(t) or t.dtype == torch.bool for t in places)
            if memory.holds(args[0]):  # places may lie in main memory
                given = [args[0], *(t for t in args[2:3] if isinstance(t, Tensor))]
                on_device = [memory.holds(t) for t in given]
        stray = [t for t, held in zip(given, on_device, strict=True) if not held and t.dim()]
        if stray and func in MIXING:
            memory.waits += 1
        elif stray:
            shapes = [tuple(t.shape) for t in stray]
            raise RuntimeError(f"{func}: tensors on cuda:0 and, of shapes {shapes}, on cpu")


class Called(TorchFunctionMode):
    """Sends what is asked of the device to main memory, with a note of it."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        memory, kwargs = self._memory, kwargs or {}
        name, own = getattr(func, "__name__", ""), args[0] if args else None
        if name == "__get__":
            if func not in (GET_DEVICE, GET_IS_CUDA) or not memory.holds(own):
                return func(*args)
            return CUDA if func == GET_DEVICE else True
        if name == "_parse_to":  # of a module's `to`, which moves its tensors one by one
            return func(*args, **kwargs)
        if name in ("numpy", "__array__") and memory.holds(own):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name == "tolist" and memory.holds(own):
            memory.waits += 1
            return memory_free(func, args)
        sides = [is_cuda(part) for part in leaves(args, kwargs) if is_device(part)]
        on_device = sides[0] if sides else None
        if name == "cpu":
            on_device = False
        self._check_generator(kwargs.get("generator"), own, on_device)
        if name == "backward" and isinstance(own, Tensor):
            with self:  # functions with a backward in Python are asked for devices there, too
                return torch.autograd.backward(own)
        if sides:
            args, kwargs = tree_map(lambda part: CPU if is_device(part) else part, (args, kwargs))
        out = func(*args, **kwargs)
        if on_device is None or not isinstance(out, Tensor):
            return out
        if isinstance(own, Tensor):  # `to` and the like
            waits = not kwargs.get("non_blocking")
            return memory.move(out, on_device, waits) if name in ("to", "cpu") else out
        if on_device:
            memory.take(out)
        return out

    def _check_generator(self, generator: Any, own: Any, on_device: bool | None) -> None:
        if generator is None:
            return
        if isinstance(own, Tensor):
            on_device = self._memory.holds(own)
        if getattr(generator, "on_device", False) is not bool(on_device):
            raise RuntimeError("Expected a generator of the tensor's own device type")


class StandInGenerator(torch.Generator):
    """One of the device, as `torch.Generator(device)` makes it."""

    on_device = False

    def __new__(cls, device: object = CPU) -> StandInGenerator:
        made = super().__new__(cls, CPU)
        made.on_device = is_cuda(device)
        return made


def leaves(*parts: Any) -> Iterator[Any]:
    """What is in lists, tuples and dictionaries; torch's own does it ten times slower."""
    for part in parts:
        if isinstance(part, list | tuple):
            yield from leaves(*part)
        elif isinstance(part, dict):
            yield from leaves(*part.values())
        else:
            yield part


def memory_free(func: Any, args: Any) -> Any:
    """Call it without counting what it does."""
    with torch.utils._python_dispatch._disable_current_modes():
        return func(*args)


def is_device(part: object) -> bool:
    return isinstance(part, torch.device) or (isinstance(part, str) and part in ("cpu", "cuda"))


def is_cuda(part: object) -> bool:
    return str(part).startswith("cuda")


class Hardware(Memory):
    """The memory of a GPU, which does not tell of waits."""

    is_real = True

    def holds(self, tensor: Tensor) -> bool:
        return tensor.is_cuda


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """A GPU, or a device that stands in for one while a test runs."""
    if torch.cuda.is_available():
        yield Hardware()
        return
    made = Memory()
    monkeypatch.setattr(torch, "Generator", StandInGenerator)
    for module in (workbench, predict):
        monkeypatch.setattr(
            module, "choose_device", lambda name, *_: CPU if name == "cpu" else CUDA
        )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "stand-in")
    monkeypatch.setattr(frozen, "_multiplies_bfloat16", lambda _: False)
    for module in (backbone_module, naive):
        monkeypatch.setattr(module, "load_classifier", load_elsewhere)
    with Dispatched(made), Called(made):
        yield made


def load_elsewhere(*args: Any) -> torch.nn.Module:
    """In a thread, where the modes are not: transformers has some of its own while it loads."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(load_classifier, *args).result()


def test_the_stand_in_refuses_what_cuda_refuses(memory: Memory) -> None:
    there, here = torch.ones(2, 3, device=CUDA), torch.ones(2, 3)
    assert (there.device, here.device, (there * 2)[:1].device) == (CUDA, CPU, CUDA)
    assert (there.cpu().device, here.to(CUDA).device, torch.zeros_like(there).device) == (
        CPU, CUDA, CUDA,
    )  # fmt: skip
    assert (there.cpu() + here).numpy().sum() == 12
    assert there[[1]].device == there[torch.tensor([0])].device == CUDA
    there[:1] = here[:1]
    refused: list[Callable[[], object]] = [
        lambda: there + here,
        lambda: there @ here.T,
        lambda: here[torch.tensor([0], device=CUDA)],
        lambda: there.index_select(0, torch.tensor([0])),
        lambda: there.__setitem__(torch.tensor([0]), here[:1]),
        lambda: torch.cat([there, here]),
        lambda: torch.rand(2, device=CUDA, generator=torch.Generator()),
        lambda: torch.rand(2, generator=torch.Generator(CUDA)),
    ]
    for action in refused:
        with pytest.raises(RuntimeError):
            action()
    with pytest.raises(TypeError):
        there.numpy()
    with pytest.raises(TypeError):
        np.asarray(there)


LORA: dict[str, dict[str, Any]] = {  # of three depths, in no order of them
    "deep": {"r": 2, "layers": "all", "target_modules": ("all-linear",)},
    "shallow": {"r": 4, "layers": 1, "target_modules": ("query", "value")},
    "middle": {"r": 3, "layers": 2, "target_modules": ("up", "down")},
}
GENOMES = [
    Genome(id=n, lora_cfg=LoRAConfig(**lora), learning_rate=2e-3) for n, lora in LORA.items()
]
MOST_WAITS = 1  # of a step: for losses and norms


@dataclass(frozen=True)
class Trained:
    """Losses of each step, how often it has waited for the device, and each genome's weights."""

    losses: list[list[float]]
    waits: list[int]
    weights: list[Weights]


def train(
    model: Backbone,
    rows: Rows,
    starts: Sequence[Weights],
    memory: Memory,
    dropout: float = 0.0,
    store: PrefixStore | None = None,
) -> Trained:
    """Three steps of a pack."""
    tower = VisionTower("efficientnet-lite0", tokens=2, device=model.device)
    encoded = EncodedRows(rows, model, tower, 16, store=store)
    labels = torch.tensor(rows.labels, device=model.device).float()
    pack = PackedAdapters(starts, [1.0, 2.0, 0.5], [dropout] * 3, [0, 1, 2], model.device)
    optimizer = PackOptimizer(pack, [Schedule(2e-3, 2)] * 3, [0.0, 0.1, 0.0], [0, 0, 0])
    take_step = PackStep(model, pack, optimizer, 1.0)
    pack.training = True
    losses, waits = [], []
    for step in range(3):
        before = memory.waits
        chosen = np.arange(step, step + 8)
        pack.begin_step(step)
        optimizer.begin_step()
        found = take_step(encoded.batch(chosen), labels[send(chosen, model.device)]).tolist()
        losses.append(found[0])
        waits.append(memory.waits - before)
        assert min(found[1]) > 0
    assert [optimizer.count(k) for k in range(3)] == [3, 3, 3]
    return Trained(losses, waits, [pack.take(k, start) for k, start in enumerate(starts)])


@pytest.fixture(scope="module")
def bases(
    mixed_rows: Rows, tiny_rows: Rows, tiny_model: Callable[[str], Backbone]
) -> dict[str, tuple[str, Rows]]:
    """An encoder and a decoder, each with rows of which every other one has a picture."""
    return {
        "encoder": ("all-minilm-l6-v2", mixed_rows),
        "decoder": (tiny_model("qwen3").path, tiny_rows),
    }


Bases = dict[str, tuple[str, Rows]]
Draw = Callable[..., Weights]
Distance = Callable[[Weights, Weights], float]


def draw_starts(model: Backbone, draw_weights: Draw) -> list[Weights]:
    width = VisionTower.width
    return [draw_weights(model, g, k, width, spread=0.02) for k, g in enumerate(GENOMES)]


@pytest.mark.parametrize(
    ("name", "products"), [("encoder", torch.float32), ("decoder", torch.bfloat16)]
)
def test_steps_on_the_device_are_those_on_the_cpu(
    name: str,
    products: torch.dtype,
    bases: Bases,
    draw_weights: Draw,
    distance: Distance,
    memory: Memory,
) -> None:
    """The same losses, and no step waits for the device more often for more layers."""
    path, rows = bases[name]
    here, there = (Backbone(path, at, torch.float32, products=products) for at in (CPU, CUDA))
    starts = draw_starts(here, draw_weights)
    expected, found = train(here, rows, starts, memory), train(there, rows, starts, memory)
    rounding = 1e-4 if products == torch.float32 else 1e-3
    np.testing.assert_allclose(found.losses, expected.losses, atol=rounding)
    assert max(found.waits[1:]) <= MOST_WAITS
    for own, start in zip(found.weights, starts, strict=True):
        assert all(memory.holds(part) for pair in own.lora.values() for part in pair)
        assert distance(to_cpu(own), start) > 1e-3


def test_a_base_in_bfloat16_trains_on_the_device(
    bases: Bases, draw_weights: Draw, memory: Memory
) -> None:
    path, rows = bases["decoder"]
    model = Backbone(path, CUDA, torch.bfloat16, products=torch.bfloat16)
    found = train(model, rows, draw_starts(model, draw_weights), memory)
    assert sum(found.losses[2]) < sum(found.losses[0])


def test_dropout_on_the_device_is_each_genomes_own(
    bases: Bases, draw_weights: Draw, memory: Memory
) -> None:
    path, rows = bases["decoder"]
    model = Backbone(path, CUDA, torch.float32)
    starts = draw_starts(model, draw_weights)
    together = PackedAdapters(starts, [1.0] * 3, [0.3, 0.0, 0.5], [5, 6, 7], CUDA)
    alone = PackedAdapters(starts[2:], [1.0], [0.5], [7], CUDA)
    x = torch.ones(3, 4, 32, device=CUDA)
    target = next(target for target in starts[2].lora if target in starts[0].lora)
    for pack in (together, alone):
        pack.training = True
        pack.begin_step(3)
    dropped, own = together.dropout(x, target), alone.dropout(x[:1], target)
    assert dropped is not None
    assert own is not None
    assert dropped[2].equal(own[0])
    assert [bool(part.any()) for part in dropped] == [True, False, True]
    train(model, rows, starts, memory, dropout=0.2)


def test_mapped_prefixes_come_to_the_device(
    bases: Bases, draw_weights: Draw, memory: Memory, tmp_path: Path
) -> None:
    path, rows = bases["decoder"]
    model = Backbone(path, CUDA, torch.float32)
    starts = draw_starts(model, draw_weights)
    kept = train(model, rows, starts, memory)
    for _ in range(2):  # filled, then found
        mapped = train(model, rows, starts, memory, store=PrefixStore(tmp_path, 0))
        np.testing.assert_allclose(mapped.losses, kept.losses, atol=1e-4)
    assert len(list(tmp_path.glob("*.bin"))) == 3


def test_a_prefix_that_a_full_device_has_no_room_for_is_kept_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "zeros", refuse)
    made = PrefixStore(tmp_path).make("key", (2, 3), torch.float32, CPU)
    assert made.shape == (2, 3)
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(torch.OutOfMemoryError):
        PrefixStore().make("key", (2, 3), torch.float32, CPU)


def run_job(worker: Worker, stage: int, starts: Sequence[Start]) -> list[TrainingResult]:
    job = Job(
        id=f"g0-{stage}",
        generation=0,
        stage=worker.config.hyperband.stages[stage],
        stage_index=stage,
        genomes=tuple(GENOMES),
        starts=tuple(starts),
    )
    return worker.train(job)


def run_stages(device: str, base: str, folder: Path) -> tuple[list[dict[str, float]], int]:
    """Objectives after two stages, the second's members shrunk, grown and merged, and of full
    training; what an exported adapter says of a row; and the tokens of full training."""
    settings = {
        "base_model": base,
        "data": {"max_rows": 16, "max_tokens": 8},
        "evolution": {"crossover_weights": "ties"},
        "training": {
            "device": device,
            "cuda_graphs": torch.cuda.is_available(),
            "frozen_products": "float32",
            "attack_rows": 1,
            "bootstrap_draws": 2,
        },
    }
    worker = Worker(load_config(settings), folder / "checkpoints")
    first = run_job(worker, 0, [Start()] * 3)
    ids = [result.checkpoint for result in first]
    second = run_job(
        worker,
        2,
        [
            Start(kind="inherit", checkpoint=ids[1]),
            Start(kind="continue", checkpoint=ids[1], grow_to=8, steps=first[1].cost.steps),
            Start(kind="merge", checkpoint=ids[0], second=ids[2]),
        ],
    )
    assert not [result.stopped for result in second if result.stopped]
    worker.test(second[0])
    worker.export(second[0], folder / "adapter")
    pictures = [image for image in worker.bench.splits.test.images if image]
    scores = Predictor(folder / "adapter", device).score(["bake bread", "bomb"], pictures[:2])
    baseline = NaiveTrainer(worker.bench, 0.5)
    full = baseline.train(GENOMES[1])
    found = [result.objectives for result in second]
    return [*found, full.validation, baseline.test(GENOMES[1]), {"first": scores[0]}], full.tokens


def test_a_run_on_the_device_is_that_on_the_cpu(
    bases: Bases, memory: Memory, tmp_path: Path
) -> None:
    """Training, measuring, checkpoints, export, prediction and the baseline."""
    path, _ = bases["decoder"]
    expected, tokens = run_stages("cpu", path, tmp_path / "cpu")
    assert not memory.waits
    found, same = run_stages("cuda", path, tmp_path / "cuda")
    assert memory.is_real or memory.waits
    assert same == tokens
    for one, own in zip(found, expected, strict=True):
        # The stand-in's copies from one side to the other are not among the bytes counted.
        assert one.pop("memory", 0) == pytest.approx(own.pop("memory", 0), rel=0.1)
        # So few rows are attacked that two of nearly equal scores show where they change places.
        assert one.pop("safety", 0) == pytest.approx(own.pop("safety", 0), abs=0.12)
        assert one == pytest.approx(own, abs=1e-3)


def to_cpu(weights: Weights) -> Weights:
    lora = {target: (a.cpu(), b.cpu()) for target, (a, b) in weights.lora.items()}
    return Weights(lora, {name: value.cpu() for name, value in weights.extra.items()})
