"""What a run's rows are too few for, and what else a reader of its figures is warned of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from coralx.steps import LEAST_SCALED
from coralx.wording import of_splits, plural

LEAST_ROWS = 30  # of a class: below, AUROC and false-positive rate are mostly chance
LISTED = 3  # tasks that a warning names
Classes = Mapping[str, int]  # how many rows are `unsafe`, and how many `safe`
NEED = f"at least about {LEAST_ROWS} of each class to be more than chance"


def cautions(known: Mapping[str, Any], objectives: Collection[str], model: str) -> list[str]:
    """All that a reader of a run's figures is to be warned of, but for doubts of its stages.

    Args:
        known: a run's facts, or its summary.
        objectives: those asked for.
        model: the base model's name.
    """
    return [
        *scarce(known["classes"]),
        *one_sided(known["missing_classes"]),
        *few_in_stages(known["classes"], known["stage_classes"]),
        *few_of_tasks(known["classes"], known["task_classes"]),
        *few_with_pictures(known["classes"], known["picture_classes"], objectives),
        *misread(known["reading"], model),
        *stood_in(known.get("stand_ins", ())),
    ]


def few_in_stages(classes: Mapping[str, Classes], stages: Mapping[str, Classes]) -> list[str]:
    """Early stages choose by a share of validation. One warning for those with as few rows."""
    alike: dict[str, list[str]] = {}
    for name, counts in stages.items():
        whole = classes["validation"]
        few = {w: n for w, n in counts.items() if n < LEAST_ROWS <= whole[w]}
        if few:
            alike.setdefault(_say(few), []).append(name)
    found = []
    for said, names in alike.items():
        verb, whose = ("chooses", "its") if len(names) == 1 else ("choose", "their")
        found.append(
            f"{' and '.join(names)} {verb} by {said}, {whose} share of validation; choices need "
            f"{NEED}; give more as data.validation, or raise {whose} data_percentage"
        )
    return found


def scarce(classes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A warning for each measured split of which a class is too small for its figures."""
    found = []
    for name, use in (("validation", "choices"), ("test", "final figures")):
        few = [(word, n) for word, n in classes.get(name, {}).items() if n < LEAST_ROWS]
        if few:
            counts = " and ".join(f"{n} {word}" for word, n in few)
            need = f"need {NEED}"
            if name == "validation" and min(n for _, n in few) < LEAST_SCALED:
                need += f", and below {LEAST_SCALED} probabilities are left uncalibrated"
            found.append(f"{name} has {counts} rows; {use} {need}; give more as data.{name}")
    return found


def one_sided(missing: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """A warning for each measured split in which tasks lack a class: its skill is the mean over
    other tasks than the next split's."""
    found = []
    for name, tasks in missing.items():
        shown = [f"{task!r:.40} (no {' and no '.join(words)} row)" for task, words in tasks.items()]
        if len(shown) > LISTED:
            shown[LISTED:] = [f"{len(shown) - LISTED} more"]
        if shown:
            found.append(
                f"task_skill on {name} rows leaves out tasks without both classes: "
                f"{', '.join(shown)}; give rows of both as data.{name}"
            )
    return found


def misread(reading: Mapping[str, Any], model: str) -> list[str]:
    """Warnings of texts that the model reads in part, or not at all, and of measured rows that are
    training rows to it."""
    if not reading:  # a run of before it was recorded
        return []
    most, rows, found = reading["max_tokens"], reading["rows"], []
    if some := of_splits(reading["cut"], rows):
        found.append(f"texts longer than data.max_tokens ({most}) are cut: {some}")
    if some := of_splits(reading["unknown"], rows):
        found.append(f"{some} texts hold no token that {model} knows: it cannot tell them apart")
    for name, n in reading["trained_on"].items():
        how = f"cut at data.max_tokens, {most}, or " if reading["cut"][name] else ""
        if n:
            found.append(
                f"{n:,} of {rows[name]:,} {name} rows are training rows as the model reads them "
                f"({how}with letters or accents that it does not tell apart); what they show is "
                "not new"
            )
    return found


def stood_in(checkpoints: Iterable[str]) -> list[str]:
    """A warning for each checkpoint that a repair came to other bits for."""
    return [
        f"checkpoint {name} was lost, and trained again to other bits: what its genome is measured "
        "at may be of the weights before"
        for name in checkpoints
    ]


def few_of_tasks(
    classes: Mapping[str, Classes], tasks: Mapping[str, Mapping[str, Classes]]
) -> list[str]:
    """Tasks count alike in `task_skill`, however few rows they have. The smallest are named."""
    found = []
    for name, own in tasks.items():
        counted = {task: counts for task, counts in own.items() if all(counts.values())}
        few = {task: _few(counts, classes[name]) for task, counts in counted.items()}
        worst = sorted((task for task in few if few[task]), key=lambda t: min(few[t].values()))
        shown = [f"{task!r:.40} has {_say(few[task])}" for task in worst]
        if len(shown) > LISTED:
            shown[LISTED:] = [f"{len(shown) - LISTED} more have few"]
        if shown:
            found.append(
                f"task_skill on {name} rows is the mean of {plural(len(counted), 'task')}, of "
                f"which {', '.join(shown)}; each needs {NEED}; give more as data.{name}"
            )
    return found


def few_with_pictures(
    classes: Mapping[str, Classes], pictures: Mapping[str, Classes], objectives: Collection[str]
) -> list[str]:
    """The gain is measured on rows with pictures, and attacks on pictures are a part of safety;
    neither where one of the classes has none."""
    named = " and ".join(name for name in ("cross_modal_gain", "safety") if name in objectives)
    found = []
    for name, counts in pictures.items():
        few = _few(counts, classes[name])
        if named and few and all(counts.values()):
            found.append(
                f"{name} has {_say(few)} with a picture; their part in {named} needs {NEED}; "
                f"give more as data.{name}"
            )
    return found


def _few(counts: Classes, whole: Classes) -> dict[str, int]:
    """The classes with few rows here, but for those that have no others in all of the split: of
    them the split's own warning tells."""
    return {word: n for word, n in counts.items() if n < LEAST_ROWS and n < whole[word]}


def _say(few: Classes) -> str:
    rows = "row" if list(few.values())[-1] == 1 else "rows"
    return f"{' and '.join(f'{n} {word}' for word, n in few.items())} {rows}"
