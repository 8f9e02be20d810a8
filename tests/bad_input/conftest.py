"""A small job that runs, and what must hold whenever something about it is spoiled."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from typer.testing import CliRunner

from coralx.cli import app

WORDS = ["bake", "bread", "break", "into", "a", "house", "cake", "bomb"]
SETTINGS: dict[str, Any] = {
    "base_model": "model",
    "vision_tower": None,
    "data": {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
    "space": {
        "r": {"kind": "choice", "values": [2, 4]},
        "target_modules": {"kind": "choice", "values": [["query"]]},
    },
    "evolution": {"population": 2, "generations": 1},
    "training": {"attack_rows": 2, "bootstrap_draws": 10, "threads": 1},
    "hyperband": {
        "training_stages": [
            {"name": "only", "epoch_budget": 1, "data_percentage": 100, "survival_rate": 1}
        ]
    },
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two blocks with random weights and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        num_labels=1,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    ids = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")  # noqa: S106
    fast.save_pretrained(folder)
    return folder


def _rows(split: str, count: int) -> list[dict[str, Any]]:
    """Texts that tell the classes apart and stand in no other split."""
    word = ("bake a cake", "break into a house")
    return [{"text": f"{word[i % 2]} {split} {i}", "label": i % 2} for i in range(count)]


class Job:
    """A folder with a model, rows and settings, all in order until a test spoils them."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.out = folder / "run"
        self.settings = copy.deepcopy(SETTINGS)
        self.settings["base_model"] = str(model)
        self.settings["data"]["max_tokens"] = 16
        for split, count in (("train", 16), ("validation", 8), ("test", 8)):
            self.write_rows(f"{split}.jsonl", _rows(split, count))

    def write_rows(self, name: str, rows: list[Any]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def spoil_row(self, **change: Any) -> None:
        """Row 3 of the training rows gets other values."""
        rows = _rows("train", 16)
        rows[2] |= change
        self.write_rows("train.jsonl", rows)

    def use(self, **data: Any) -> None:
        """Settings of the data section; None takes one out."""
        section = self.settings["data"] | data
        self.settings["data"] = {k: v for k, v in section.items() if v is not None}

    def copy_model(self) -> Path:
        """A copy of the model to spoil, in use from now on."""
        shutil.copytree(self.model, self.folder / "model")
        self.settings["base_model"] = str(self.folder / "model")
        return self.folder / "model"

    def run(self, text: str | bytes | None = None) -> Result:
        """`coralx run` on the settings, or on the text in their place."""
        path = self.folder / "job.yaml"
        text = yaml.safe_dump(self.settings) if text is None else text
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return CliRunner().invoke(app, ["run", str(path), "--out", str(self.out)])

    def refuse(self, *said: str, text: str | bytes | None = None) -> str:
        """The message of a refused run: exit code 2, no traceback, nothing written, `said` in it
        word for word."""
        result = self.run(text)
        message = result.stderr
        assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
        assert message.startswith("coralx: ")
        assert "Traceback" not in message
        assert not self.out.exists() or not list(self.out.iterdir())
        for words in said:
            assert words in message
        return message


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    return Job(tmp_path, model)
