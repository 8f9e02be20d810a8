"""Measure what a classifier could learn from shortcuts, and print it as Markdown."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from picture_features import extract_features
from row_table import Row, read_rows
from untyped_packages import linear_model, metrics, pipeline, preprocessing, text

SPLITS = ("train", "validation", "test", "clean_holdout")
TASKS = ("harmful_request", "hazard_picture")
Scores = Sequence[float] | NDArray[np.float64]


def audit_files(folder: Path) -> str:
    """Return the counts and the shortcut table of the files in ``folder`` as Markdown."""
    rows = {split: read_rows(folder / f"{split}.parquet") for split in SPLITS}
    parts = [_count_rows(rows), _count_sources(rows), _measure_shortcuts(rows)]
    return "\n\n".join([*parts, _count_bytes(folder)])


def _count_rows(rows: dict[str, list[Row]]) -> str:
    lines = ["| file | task | unsafe | safe | all |", "|---|---|---|---|---|"]
    for split in SPLITS:
        for task in TASKS:
            labels = [row.label for row in rows[split] if row.task == task]
            if labels:
                unsafe = sum(labels)
                counts = f"{unsafe} | {len(labels) - unsafe} | {len(labels)}"
                lines.append(f"| {split} | {task} | {counts} |")
    return "\n".join(lines)


def _count_sources(rows: dict[str, list[Row]]) -> str:
    lines = ["| source | " + " | ".join(SPLITS) + " |", "|---|---|---|---|---|"]
    counts = {split: Counter(row.source for row in rows[split]) for split in SPLITS}
    for source in sorted(set().union(*counts.values())):
        cells = " | ".join(str(counts[split][source]) for split in SPLITS)
        lines.append(f"| {source} | {cells} |")
    return "\n".join(lines)


def _count_bytes(folder: Path) -> str:
    files = [path for path in folder.iterdir() if path.suffix in (".parquet", ".json", ".jsonl")]
    return f"Bytes of all data files: {sum(path.stat().st_size for path in files):,}"


def _measure_shortcuts(rows: dict[str, list[Row]]) -> str:
    lines = ["| task | what is seen | validation | test |", "|---|---|---|---|"]
    for task in TASKS:
        part = {split: [row for row in rows[split] if row.task == task] for split in SPLITS}
        for name, score in _list_scorers(task):
            cells = [_score_split(score, part, split) for split in ("validation", "test")]
            lines.append(f"| {task} | {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _score_split(
    score: Callable[[list[Row], list[Row]], Scores], part: dict[str, list[Row]], split: str
) -> str:
    area = metrics.roc_auc_score(
        [row.label for row in part[split]], score(part["train"], part[split])
    )
    return f"{max(area, 1 - area):.2f}"


def _list_scorers(task: str) -> list[tuple[str, Callable[[list[Row], list[Row]], Scores]]]:
    scorers: list[tuple[str, Callable[[list[Row], list[Row]], Scores]]] = [
        ("length in characters", lambda _, rows: [float(len(row.text)) for row in rows]),
        ("length in words", lambda _, rows: [float(len(row.text.split())) for row in rows]),
        ("first word", score_first_word),
        ("bag of words (text alone)", score_bag_of_words),
    ]
    if task == "hazard_picture":
        scorers += [
            ("picture alone, learned", score_pictures),
            ("text alone, oracle", lambda _, rows: [float(_is_risky(rows, r)) for r in rows]),
            ("picture alone, oracle", lambda _, rows: [float(_is_hazard(rows, r)) for r in rows]),
            ("both, oracle", lambda _, rows: [_ask_both(rows, r) for r in rows]),
        ]
    return scorers


def score_first_word(train: list[Row], rows: list[Row]) -> Scores:
    """Return the smoothed share of unsafe training rows that begin with the row's first word."""
    total: Counter[str] = Counter(_first_word(row) for row in train)
    unsafe: Counter[str] = Counter(_first_word(row) for row in train if row.label)
    base = sum(row.label for row in train) / len(train)
    return [(unsafe[w] + 2 * base) / (total[w] + 2) for w in map(_first_word, rows)]


def _first_word(row: Row) -> str:
    return row.text.split()[0].lower()


def score_bag_of_words(train: list[Row], rows: list[Row]) -> Scores:
    """Return a TF-IDF logistic regression's scores."""
    words = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = pipeline.make_pipeline(words, linear_model.LogisticRegression(C=10, max_iter=2000))
    model.fit([row.text for row in train], [row.label for row in train])
    return np.asarray(model.decision_function([row.text for row in rows]), dtype=np.float64)


def score_pictures(train: list[Row], rows: list[Row]) -> Scores:
    """Return a logistic regression's scores on frozen picture features."""
    regression = linear_model.LogisticRegression(C=0.01, max_iter=3000)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
    model.fit(extract_features(train), [row.label for row in train])
    return np.asarray(model.decision_function(extract_features(rows)), dtype=np.float64)


def _is_risky(rows: list[Row], row: Row) -> bool:
    """An oracle: a wording is risky if it is unsafe with any object."""
    return any(other.label for other in rows if other.text == row.text)


def _is_hazard(rows: list[Row], row: Row) -> bool:
    """An oracle: an object is a hazard if it is unsafe with any wording."""
    return any(other.label for other in rows if _object(other) == _object(row))


def _ask_both(rows: list[Row], row: Row) -> float:
    return float(_is_risky(rows, row) and _is_hazard(rows, row))


def _object(row: Row) -> str:
    return row.group.rpartition("/")[2]
