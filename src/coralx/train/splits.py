"""A run's rows by use: read from files, shares set aside where there are none, and kept apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coralx.config import Config
from coralx.errors import DataError
from coralx.rows.file import builtin_file
from coralx.rows.values import check_optional, list_some
from coralx.settings.sections import DataSettings
from coralx.train.data import subset
from coralx.train.rows import SPLITS, CheckedFile, Key, Rows, read_rows
from coralx.train.shares import halve, limit, set_aside
from coralx.wording import plural

CLASSES = ((1, "unsafe"), (0, "safe"))
PICTURES = DataSettings().image_column  # where pictures are if nobody says otherwise
SET_ASIDE = 20  # per cent of the training rows for a split without a file
LEAST_SHARE = 25.0  # per cent of the validation rows that early stages are measured on
REASONS = 3  # shown of the rows that a file's warning counts


@dataclass(frozen=True)
class Splits:
    """Rows by use: `validation` for all selection, `test` for final figures alone. The clean
    rows are benign ones of other sources, one half for selection and one for the final.
    `left_out` counts the rows of each file that `on_bad_rows: skip` left out."""

    train: Rows
    validation: Rows
    test: Rows
    clean_validation: Rows
    clean_test: Rows
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def measured(self) -> dict[str, Rows]:
        """The splits whose rows are measured, but for the clean ones."""
        return {"validation": self.validation, "test": self.test}

    @property
    def classes(self) -> dict[str, dict[str, int]]:
        """Of each split that has both, its unsafe and its safe rows."""
        splits = {"train": self.train, **self.measured}
        return {name: count_classes(rows.labels) for name, rows in splits.items()}

    @property
    def task_classes(self) -> dict[str, dict[str, dict[str, int]]]:
        """Of validation and test, the unsafe and the safe rows of each task; none where all rows
        are of one task."""
        found = {}
        for name, rows in self.measured.items():
            known = Counter(zip(rows.tasks, rows.labels.tolist(), strict=True))
            tasks = sorted(set(rows.tasks))
            counts = {task: {word: known[task, n] for n, word in CLASSES} for task in tasks}
            found[name] = counts if len(tasks) > 1 else {}
        return found

    @property
    def picture_classes(self) -> dict[str, dict[str, int]]:
        """Of the rows of validation and test with a picture, the unsafe and the safe ones."""
        found = {}
        for name, rows in self.measured.items():
            pictured = [image is not None for image in rows.images]
            found[name] = count_classes(rows.labels[pictured])
        return found

    @property
    def measures_pictures(self) -> bool:
        """Whether pictures are read, as some training rows have one, and validation rows of both
        classes have some."""
        return any(self.train.images) and all(self.picture_classes["validation"].values())

    @property
    def missing_classes(self) -> dict[str, dict[str, list[str]]]:
        """Of validation and test, the tasks that either has of which rows of a class are missing
        there, and which: `task_skill` leaves these tasks out."""
        tasks = sorted({*self.validation.tasks, *self.test.tasks})
        found = {}
        for name, rows in self.measured.items():
            there = set(zip(rows.tasks, rows.labels.tolist(), strict=True))
            lacking = {
                task: [word for label, word in CLASSES if (task, label) not in there]
                for task in tasks
            }
            found[name] = {task: words for task, words in lacking.items() if words}
        return found

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of each split's rows; another file, or an edit of one that shares are set aside from,
        gives others."""
        names = ("train", "validation", "test", "clean_validation", "clean_test")
        return {name: getattr(self, name).fingerprint() for name in names}


def count_classes(labels: NDArray[np.int8]) -> dict[str, int]:
    """How many are unsafe, and how many safe."""
    return {word: int((labels == label).sum()) for label, word in CLASSES}


def count_for_stages(config: Config, validation: Rows) -> dict[str, dict[str, int]]:
    """Of each stage that chooses by a share of the validation rows, the unsafe and the safe ones
    among these."""
    found = {}
    for stage in config.hyperband.stages:
        share = max(LEAST_SHARE, stage.data_percentage)
        if share < 100 and config.measures_all(stage):
            chosen = subset(validation, share, config.evolution.seed)
            found[stage.name] = count_classes(validation.labels[chosen])
    return found


@dataclass
class _LeftOut:
    """Rows that are left out: told file by file, and counted."""

    say: Callable[[str], None]
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, found: CheckedFile, reasons: Sequence[str]) -> None:
        """Rows of a file, each with the reason to leave it out."""
        if not reasons:
            return
        shown = "; ".join(reasons[:REASONS]) + ("; ..." if len(reasons) > REASONS else "")
        rows, path = len(found.rows) + len(found.left_out), f"{found.path}"
        self.say(f"warning: {path}: {len(reasons)} of {rows} rows left out: {shown}")
        self.counts[path] = self.counts.get(path, 0) + len(reasons)


def load_splits(
    settings: DataSettings,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
    pictures: bool = True,
) -> Splits:
    """Read a run's rows; splits without a file are set aside from the training rows.

    Args:
        say: told of each file how many of its rows are left out, and why; of texts with both
            labels; of rows without a task among others; and of pictures that are measured, but not
            trained on.
        pictures: False leaves them unopened, as is enough to count rows.

    Raises:
        DataError: unreadable rows, a column that no file has, a row in two splits, or a split that
            lacks one of the classes.
    """
    left_out = _LeftOut(say)
    files, columns = dict[str, CheckedFile](), dict[str, None]()
    for name, path in _name_files(settings).items():
        if path:
            files[name] = found = read_rows(path, settings, name == "clean_holdout", pictures)
            columns |= dict.fromkeys(found.columns)
            left_out.add(found, found.left_out)
    check_optional(settings, columns)
    _warn_of_both_labels(files, settings, say)
    _warn_of_lacking_tasks(files, say)
    rows = _keep_apart(files, settings.on_bad_rows, left_out)
    whole = rows["train"]
    for salt, name in enumerate(("test", "validation"), start=1):
        if name not in rows:
            rows["train"], rows[name] = set_aside(rows["train"], SET_ASIDE, seed + salt)
    _check_left(files, whole, rows["train"])
    rows = {name: limit(part, settings.max_rows, seed) for name, part in rows.items()}
    for name in ("train", "validation", "test"):
        _check_classes(files, name, rows[name])
    _warn_of_pictures(rows, files, say)
    clean = rows.get("clean_holdout", rows["train"].take([]))
    first, second = halve(clean, seed)
    if len(clean) and not len(first):
        say(
            f"warning: {files['clean_holdout'].path}: of {plural(len(clean), 'clean row')} "
            "(copies go together) none is left for choices, all are for final figures; give more"
        )
    measured = rows["validation"], rows["test"], first, second
    return Splits(rows["train"], *measured, left_out.counts)


def _name_files(settings: DataSettings) -> dict[str, Path | None]:
    if settings.train is None:
        return {name: builtin_file(name) for name in SPLITS}
    return {name: getattr(settings, name) for name in SPLITS}


def _warn_of_both_labels(
    files: Mapping[str, CheckedFile], settings: DataSettings, say: Callable[[str], None]
) -> None:
    """Rows that say both of one text and picture teach nothing and bound what can be measured."""
    known = {name: _find_clashes(found.rows) for name, found in files.items()}
    if settings.train is None and settings.image_column is None:
        if clashes := [places for own in known.values() for places in own]:
            say(
                f"warning: built-in data set: {_count_clashes(clashes)}: their pictures, which are "
                "left out, tell them apart"
            )
        return
    for name, clashes in known.items():
        if clashes:
            told = _describe_clashes(clashes, files[name], settings.image_column)
            say(f"warning: {files[name].path}: {_count_clashes(clashes)} {told}")


def _find_clashes(rows: Rows) -> list[list[int]]:
    """The places of rows that count as the same and are of both labels."""
    same: dict[Key, list[int]] = defaultdict(list)
    for place, key in enumerate(rows.keys()):
        same[key].append(place)
    several = [places for places in same.values() if len(places) > 1]  # few: most rows are unique
    return [places for places in several if len(set(rows.labels[places].tolist())) > 1]


def _count_clashes(clashes: Sequence[Sequence[int]]) -> str:
    rows = sum(map(len, clashes))
    return f"{plural(len(clashes), 'text')} with both labels in {plural(rows, 'row')}"


def _describe_clashes(
    clashes: Sequence[Sequence[int]], found: CheckedFile, image_column: str | None
) -> str:
    """In what the rows are alike, two of them, and what to do."""
    rows, (one, *others) = found.rows, clashes[0]
    other = next(place for place in others if rows.labels[place] != rows.labels[one])
    exact = [len({rows.texts[place] for place in places}) == 1 for places in clashes]
    pictured = any(rows.images[places[0]] for places in clashes)
    advice = "keep the right ones"
    if image_column is None and PICTURES in found.columns:
        advice = f"pictures (column {PICTURES!r}), which are left out, may tell them apart"
    return (
        f"({_name_likeness(exact, pictured)}), as rows {found.numbers[one]} and "
        f"{found.numbers[other]}; {advice}"
    )


def _name_likeness(exact: Iterable[bool], pictured: bool) -> str:
    """In what rows that count as the same are so, of which some are `exact` copies; with nothing
    said of pictures where none is read."""
    if all(exact):
        return "same text and picture" if pictured else "same text"
    return "same text but for case and spaces" + (", same picture" if pictured else "")


def _warn_of_lacking_tasks(files: Mapping[str, CheckedFile], say: Callable[[str], None]) -> None:
    """Where rows have tasks, those without one are a task too, with a task's weight in
    `task_skill`. The clean rows are measured whatever their task."""
    counted = [found for name, found in files.items() if name != "clean_holdout"]
    if all(found.without_task == len(found.rows) for found in counted):
        return
    for found in counted:
        if found.without_task:
            say(
                f"warning: {found.path}: {found.without_task} of {len(found.rows)} rows have no "
                "task, others have; without one they are measured as task 'all'"
            )


def _warn_of_pictures(
    rows: Mapping[str, Rows], files: Mapping[str, CheckedFile], say: Callable[[str], None]
) -> None:
    """Without a picture to train on no vision tower is loaded."""
    if any(rows["train"].images):
        return
    for name in ("validation", "test", "clean_holdout"):
        pictures = rows[name].images if name in rows else ()
        count = sum(image is not None for image in pictures)
        if count:
            say(
                f"warning: {_source_of(name, files).path}: {plural(count, f'{name} row')} with a "
                "picture, and no training row has one; the pictures are not looked at"
            )


def _keep_apart(
    files: Mapping[str, CheckedFile], on_bad_rows: str, left_out: _LeftOut
) -> dict[str, Rows]:
    """A row (its text and picture) may stand in one split: what was trained on says nothing when
    measured. In mode skip the row stays where it is measured and is left out of the others.

    Raises:
        DataError: a row is in two files, in mode refuse; each is listed with its numbers.
    """
    seen: dict[Key, tuple[str, int]] = {}
    kept: dict[str, Rows] = {}
    bad: list[str] = []
    exact: list[bool] = []
    for name in ("test", "clean_holdout", "validation", "train"):
        if name not in files:
            continue
        found = files[name]
        own = found.rows.keys()
        fresh = [i for i, key in enumerate(own) if key not in seen]
        twice = []
        for i in sorted(set(range(len(own))) - set(fresh)):
            other, place = seen[own[i]]
            exact.append(found.rows.texts[i] == files[other].rows.texts[place])
            twice.append(
                f"row {found.numbers[i]} of {found.path} is row {files[other].numbers[place]} of "
                f"{files[other].path}{'' if exact[-1] else ', but for case and spaces'}"
            )
        if on_bad_rows == "skip":
            left_out.add(found, twice)
        bad.extend(twice)
        seen.update({own[i]: (name, i) for i in fresh})
        kept[name] = found.rows.take(fresh) if len(fresh) < len(own) else found.rows
    if bad and on_bad_rows == "refuse":
        pictured = any(any(found.rows.images) for found in files.values())
        raise DataError(
            f"{len(bad)} row(s) are in two splits ({_name_likeness(exact, pictured)}), so they "
            "would be measured after being trained on or chosen by; take them out of one file, or "
            f"set data.on_bad_rows: skip\n{list_some(bad)}"
        )
    return {name: kept[name] for name in files}


def _check_left(files: Mapping[str, CheckedFile], whole: Rows, left: Rows) -> None:
    """Setting shares aside has left training rows of each class that there was."""
    without = [name for name in ("validation", "test") if name not in files]
    shares, settings = " and ".join(without), " and ".join(f"data.{name}" for name in without)
    for label, word in CLASSES:
        own = whole.take(np.flatnonzero(whole.labels == label))
        if len(own) and label not in left.labels:
            source, distinct, strata = files["train"], len(set(own.keys())), len(set(own.strata()))
            raise DataError(
                f"{source.path}: no {word} training row is left after {SET_ASIDE:g} % were set "
                f"aside for {shares}: of {len(own)} {word} rows {distinct} are distinct (copies go "
                f"together), in {strata} strata of picture and task, and each stratum gives at "
                "least one; add rows, name another column as data.task_column, or give files as "
                f"{settings}"
            )


def _source_of(name: str, files: Mapping[str, CheckedFile]) -> CheckedFile:
    """The file that a split's rows are from: without one of its own, the training rows'."""
    return files.get(name, files["train"])


def _check_classes(files: Mapping[str, CheckedFile], name: str, rows: Rows) -> None:
    path, advice = _source_of(name, files).path, "add rows of both"
    if name not in files:
        advice += f", or give {name} a file of its own"
    positive = int(rows.labels.sum())
    if positive in (0, len(rows)):
        raise DataError(
            f"{path}: {name} rows: both classes are needed, got {positive} unsafe and "
            f"{len(rows) - positive} safe of {len(rows)}; {advice}"
        )
    classes = defaultdict(set)
    for task, label in zip(rows.tasks, rows.labels.tolist(), strict=True):
        classes[task].add(label)
    if name != "train" and all(len(found) == 1 for found in classes.values()):
        raise DataError(
            f"{path}: {name} rows: P1 is a mean over tasks that have both classes, and none of the "
            f"{len(classes)} tasks has; add rows, or name another column as data.task_column "
            "(null makes all rows one task)"
        )
