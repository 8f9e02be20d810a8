"""`coralx init`: a commented configuration and sample rows to start one's own job from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from coralx.errors import StoreError
from coralx.rows.file import builtin_file, iterate_rows

# Rows of each class, per task: text alone, and text with a picture.
SIZES = {"train": (48, 24), "validation": (24, 12), "test": (24, 12)}
PICTURES = "pictures"
NEW_ROWS = "new_rows.jsonl"
NEW_OF_A_CLASS = 10

CONFIG = """\
# coralx run {folder}/config.yaml
#
# What is left out keeps its default; `configs/default.yaml` of the CoralX repository spells all of
# them out. An unknown key is refused, with the nearest known one.

# A local folder, the short name of an installed package's model, or a hub id (owner/name).
base_model: all-minilm-l6-v2
# Reads pictures; null if your rows have none.
vision_tower: efficientnet-lite0

data:
  # JSONL, CSV or Parquet; paths are taken from this file's folder. Without `test` 20 % of the
  # training rows are set aside for it, without `validation` 20 % of those that then remain.
  train: train.jsonl
  validation: validation.jsonl # for every choice made during the run
  test: test.jsonl # for the final figures alone
  text_column: text
  label_column: label # 1 = unsafe, 0 = safe
  image_column: image # optional: a path beside the rows file, or bytes
  task_column: task # optional: skill is then the mean over the tasks
  on_bad_rows: refuse # or skip: missing label, empty text, unreadable picture
  max_tokens: 64

# What the front is made of; name your own as module:function (larger is better). It gets one
# coralx.train.evaluate.Scored (arrays scores, labels, tasks, has_image) and returns a number. Its
# module is looked for where Python does: PYTHONPATH=. is the folder you are in.
objectives: [task_skill, safety, false_positive_cost, memory, cross_modal_gain, calibration]

# The genes. What is not named here keeps the default of a genome.
space:
  r: {{kind: choice, values: [2, 4, 8, 16]}}
  alpha: {{kind: choice, values: [8, 16, 32]}}
  dropout: {{kind: choice, values: [0.0, 0.1]}}
  target_modules:
    kind: choice
    values: [[query, value], [query, key, value, output], [all-linear]]
  layers: {{kind: choice, values: [1, 2, 3]}} # adapt only the last k blocks
  learning_rate: {{kind: float, low: 0.0005, high: 0.008, log: true}}

evolution:
  population: 4 # genomes in a generation
  generations: 2
  seed: 0

training:
  batch_size: 8
  attack_rows: 8 # attacked rows of each kind and class, for safety
  bootstrap_draws: 200 # for the intervals of the final figures

# A genome trains `epoch_budget` epochs of its stage's share of the rows; `survival_rate` of a
# stage's genomes go on to the next. These budgets suit a few hundred rows; with thousands, leave
# this section out: the defaults are S0_sanity, S1_shakeout, S2_serious and S3_finisher.
hyperband:
  training_stages:
    - {{name: short, epoch_budget: 1.0, data_percentage: 50, survival_rate: 0.5}}
    - {{name: long, epoch_budget: 3.0, data_percentage: 100, survival_rate: 0.5}}
  naive_epochs: 3.5 # what every genome would train for without stages
"""


def write_starter(directory: Path) -> list[Path]:
    """Write config.yaml, rows of the data set in the package, and rows to predict.

    Raises:
        StoreError: one of the files exists already, or the folder cannot be written.
    """
    files = [directory / name for name in ("config.yaml", NEW_ROWS, PICTURES)]
    files += [directory / f"{split}.jsonl" for split in SIZES]
    if taken := [path.name for path in files if path.exists()]:
        raise StoreError(
            f"{directory}: holds {', '.join(sorted(taken))} already and nothing is overwritten; "
            "choose another folder"
        )
    try:
        (directory / PICTURES).mkdir(parents=True)
        for split, (texts, pictured) in SIZES.items():
            rows = _choose(split, texts, pictured)
            _write_rows(directory, split, rows)
        _write_rows(directory, NEW_ROWS.removesuffix(".jsonl"), _choose_new())
        text = CONFIG.format(folder=directory)
        (directory / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{directory}: cannot be written: {error.strerror or error}; free space or allow "
            "writing there, or name another folder"
        ) from None
    return sorted(files)


def _choose(split: str, texts: int, pictured: int) -> list[dict[str, Any]]:
    """The first rows of each class with and without a picture, in the order of the file."""
    wanted = {False: texts, True: pictured}
    seen: Counter[tuple[bool, int]] = Counter()
    chosen = []
    for row in iterate_rows(builtin_file(split)):
        kind = (row["image"] is not None, row["label"])
        seen[kind] += 1
        if seen[kind] <= wanted[kind[0]]:
            chosen.append(row)
    return chosen


def _choose_new() -> list[dict[str, Any]]:
    """Rows without pictures that stand in none of the job's files: those after its test rows."""
    texts, _ = SIZES["test"]
    known = _choose("test", texts, 0)
    return [row for row in _choose("test", texts + NEW_OF_A_CLASS, 0) if row not in known]


def _write_rows(directory: Path, split: str, rows: list[dict[str, Any]]) -> None:
    lines = []
    for number, row in enumerate(rows, start=1):
        line = {name: row[name] for name in ("text", "label", "task")}
        if row["image"] is not None:
            line["image"] = f"{PICTURES}/{split}-{number:03d}.webp"
            (directory / line["image"]).write_bytes(row["image"])
        lines.append(json.dumps(line, ensure_ascii=False))
    (directory / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
