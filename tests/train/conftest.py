"""The real base model and the shipped rows, loaded once, and a plain training loop for packs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from coralx.records import Genome, LoRAConfig
from coralx.settings.sections import DataSettings
from coralx.supported import DECODERS
from coralx.train.adapters import PackedAdapters, Weights, new_weights
from coralx.train.backbone import Backbone
from coralx.train.network import score
from coralx.train.optim import PackOptimizer, Schedule
from coralx.train.prefix import EncodedRows
from coralx.train.rows import Rows
from coralx.train.splits import Splits, load_splits
from coralx.train.vision import VisionTower

CPU = torch.device("cpu")
# Few buckets, so that short texts have distances that share one.
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
WORDS = [
    "how",
    "do",
    "i",
    "bake",
    "bread",
    "break",
    "into",
    "a",
    "house",
    "make",
    "the",
    "bomb",
    "cake",
    "of",
    "with",
    "and",
    "now",
]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads that wait for each other on a busy machine cost far more than they save here."""
    torch.set_num_threads(1)


@pytest.fixture
def two_lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Packs are shared out between two lanes; the names of the threads that were started."""
    names: list[str] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    torch.set_num_threads(2)
    yield names
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return Backbone("all-minilm-l6-v2", CPU, torch.float32)


@pytest.fixture(scope="session")
def splits() -> Splits:
    return load_splits(DataSettings(), seed=0)


@pytest.fixture(scope="session")
def tower() -> VisionTower:
    return VisionTower("efficientnet-lite0", tokens=2, device=CPU)


def _choose(rows: Rows, pictured: bool, per_class: int) -> list[int]:
    """The first rows of each class with or without a picture."""
    fits = [i for i, image in enumerate(rows.images) if (image is not None) is pictured]
    return [i for label in (0, 1) for i in [j for j in fits if rows.labels[j] == label][:per_class]]


@pytest.fixture(scope="session")
def text_rows(splits: Splits) -> Rows:
    """16 rows without a picture, both classes in turn."""
    return splits.train.take(np.array(_choose(splits.train, False, 8)).reshape(2, 8).T.ravel())


@pytest.fixture(scope="session")
def mixed_rows(splits: Splits) -> Rows:
    """Eight rows with and eight without a picture, both classes, in turn."""
    chosen = _choose(splits.train, False, 4) + _choose(splits.train, True, 4)
    return splits.train.take(np.array(chosen).reshape(4, 4).T.ravel())


@pytest.fixture(scope="session")
def encoded_text(text_rows: Rows, backbone: Backbone) -> EncodedRows:
    return EncodedRows(text_rows, backbone, None, max_tokens=16)


@pytest.fixture(scope="session")
def encoded_mixed(mixed_rows: Rows, backbone: Backbone, tower: VisionTower) -> EncodedRows:
    return EncodedRows(mixed_rows, backbone, tower, max_tokens=16)


@pytest.fixture(scope="session")
def tiny_rows(mixed_rows: Rows) -> Rows:
    """16 rows in the tiny models' vocabulary, every other one with a picture."""
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 9))) for _ in range(16)]
    pictures = [image for image in mixed_rows.images if image is not None]
    images = tuple(pictures[i // 2] if i % 2 else None for i in range(16))
    labels = np.array([0, 0, 1, 1] * 4, dtype=np.int8)
    return Rows(tuple(texts), labels, ("all",) * 16, images)


def _make_genome(learning_rate: float = 1e-3, weight_decay: float = 0.0, **lora: Any) -> Genome:
    config = LoRAConfig(**lora)
    return Genome(lora_cfg=config, learning_rate=learning_rate, weight_decay=weight_decay)


@pytest.fixture(scope="session")
def genome() -> Callable[..., Genome]:
    return _make_genome


@pytest.fixture(scope="session")
def mixed_genomes() -> list[Genome]:
    """Four genomes that differ in everything that packing could mix up."""
    return [
        _make_genome(3e-3, 0.0, r=2, alpha=8, target_modules=("query", "value"), layers=1),
        _make_genome(1e-3, 0.01, r=4, alpha=16, target_modules=("all-linear",), layers="all"),
        _make_genome(2e-3, 0.1, r=8, alpha=8, target_modules=("up", "down"), layers=3,
                     use_rslora=True),
        _make_genome(5e-4, 0.0, r=3, alpha=32, target_modules=("query", "key", "output"), layers=6),
    ]  # fmt: skip


def _draw_weights(
    backbone: Backbone,
    genome: Genome,
    seed: int = 0,
    vision: int | None = None,
    spread: float = 0.0,
) -> Weights:
    """Fresh weights; `spread` is the deviation of a random B, whose fresh value is zero."""
    stream = torch.Generator().manual_seed(seed)
    targets = backbone.find_targets(genome.lora_cfg.target_modules, genome.lora_cfg.layers)
    rank, given = genome.lora_cfg.r, backbone.given
    fresh = new_weights(targets, rank, backbone.linear, backbone.hidden, vision, stream, given)
    if not spread:
        return fresh
    lora = {t: (a, b.normal_(0, spread, generator=stream)) for t, (a, b) in fresh.lora.items()}
    return Weights(lora, fresh.extra)


@pytest.fixture(scope="session")
def draw_weights() -> Callable[..., Weights]:
    return _draw_weights


def _build_pack(
    genomes: Sequence[Genome], weights: Sequence[Weights], seeds: Sequence[int]
) -> PackedAdapters:
    configs = [g.lora_cfg for g in genomes]
    scales, dropouts = [c.scale for c in configs], [c.dropout for c in configs]
    return PackedAdapters(weights, scales, dropouts, seeds, CPU)


@pytest.fixture(scope="session")
def build_pack() -> Callable[..., PackedAdapters]:
    return _build_pack


@dataclass(frozen=True)
class Trained:
    """A pack after training: `losses` (steps, K) and the weights of each genome."""

    pack: PackedAdapters
    losses: NDArray[np.float64]
    weights: list[Weights]


def _train(
    backbone: Backbone,
    encoded: EncodedRows,
    genomes: Sequence[Genome],
    starts: Sequence[Weights],
    plan: Sequence[Sequence[int]],
    clip: float | None = 1.0,
    seeds: Sequence[int] | None = None,
) -> Trained:
    """Train a pack on the batches of `plan`, with five steps of warm-up."""
    pack = _build_pack(genomes, starts, seeds or range(len(genomes)))
    schedules = [Schedule(g.learning_rate, warmup=5) for g in genomes]
    decays = [g.weight_decay for g in genomes]
    optimizer = PackOptimizer(pack, schedules, decays, [0] * pack.size)
    pack.training = True
    losses = []
    for position, chosen in enumerate(plan):
        pack.begin_step(position)
        optimizer.begin_step()
        logits = score(backbone, pack, encoded.batch(chosen))
        each = find_losses(logits, encoded.rows.labels[list(chosen)])
        each.sum().backward()
        optimizer.clip(clip)
        optimizer.step()
        losses.append(each.tolist())
    weights = [pack.take(k, start) for k, start in enumerate(starts)]
    return Trained(pack, np.array(losses), weights)


@pytest.fixture(scope="session")
def train() -> Callable[..., Trained]:
    return _train


def find_losses(logits: Tensor, labels: NDArray[np.int8]) -> Tensor:
    """Cross-entropy of each genome: (K, B) -> (K,)."""
    truth = torch.from_numpy(labels).float().expand_as(logits)
    return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)


@pytest.fixture(scope="session")
def plan() -> list[list[int]]:
    """Twenty batches of three rows out of sixteen."""
    rng = np.random.default_rng(0)
    return [rng.permutation(16)[:3].tolist() for _ in range(20)]


@pytest.fixture(scope="session")
def distance() -> Callable[[Weights, Weights], float]:
    """The largest difference between two genomes' weights."""

    def between(one: Weights, two: Weights) -> float:
        pairs = [(x, y) for t in one.lora for x, y in zip(one.lora[t], two.lora[t], strict=True)]
        pairs += [(one.extra[name], two.extra[name]) for name in one.extra]
        assert one.lora.keys() == two.lora.keys()
        assert one.extra.keys() == two.extra.keys()
        return max(float((x - y).abs().max()) for x, y in pairs)

    return between


def _save_tiny(folder: Path, kind: str, **more: Any) -> Path:
    """A model of random weights with its tokenizer; `more` goes into its config."""
    torch.manual_seed(0)
    own = {"num_key_value_heads": 2, "head_dim": 8} if kind in DECODERS else {}
    own |= {"hidden_dim": 48} if kind == "distilbert" else {}
    # Blocks of both kinds, whose windows are longer than all texts.
    gemma = {"sliding_window_pattern": 2, "sliding_window": 32, "query_pre_attn_scalar": 4}
    own |= gemma if kind == "gemma3_text" else {}
    # Few near tokens, so that short texts reach beyond them.
    own |= {"local_attention": 4} if kind == "modernbert" else {}
    own |= DEBERTA if kind == "deberta-v2" else {}
    tokenizer = _split_bytes() if kind == "qwen2" else _split_words()
    sizes = {
        "vocab_size": 320 if kind == "qwen2" else 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "num_labels": 1,
        "initializer_range": 0.3,
    }
    config = AutoConfig.for_model(kind, **sizes | own | more)
    model = AutoModelForSequenceClassification.from_config(config)
    model.to(more.get("dtype", torch.float32)).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")  # noqa: S106
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_tiny() -> Callable[..., Path]:
    return _save_tiny


def _split_words() -> Tokenizer:
    """Whole words."""
    ids = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _split_bytes() -> Tokenizer:
    """Bytes, made words again by merges: transformers reads no other vocabulary for qwen2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=310, special_tokens=["[PAD]"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backbone]:
    """A backbone of a tiny random model by its type and further settings, made once."""
    made: dict[str, Backbone] = {}

    def load(kind: str, **more: Any) -> Backbone:
        name = kind + "".join(f"-{key}-{value}" for key, value in more.items())
        if name not in made:
            folder = _save_tiny(tmp_path_factory.mktemp(kind), kind, **more)
            made[name] = Backbone(str(folder), CPU, torch.float32)
        return made[name]

    return load
