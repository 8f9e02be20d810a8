"""What a run's rows are too few for, and what else a reader of its figures is warned of."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from coralx.steps import LEAST_SCALED
from coralx.wording import absent, bounds, label, of_splits, plural, rho, share, stage_pairs

LEAST_ROWS = 30  # of a class: below, AUROC and false-positive rate are mostly chance
_TASKS_NAMED = 3  # tasks that a warning names
Classes = Mapping[str, int]  # how many rows are `unsafe`, and how many `safe`


def warn_python(text: str) -> None:
    """Of a text that is a warning, one of Python's; what is being loaded is not said."""
    if text.startswith("warning: "):
        warnings.warn(text.removeprefix("warning: "), stacklevel=2)


def cautions(known: Mapping[str, Any], objectives: Collection[str], model: str) -> list[str]:
    """All that a reader of a run's figures is to be warned of, but for its stages (`doubts`) and
    the members of its front (`chance`).

    Args:
        known: a run's facts, or its summary.
        objectives: those asked for.
        model: the base model's name.
    """
    return [
        *scarce(known, objectives),
        *one_sided(known["missing_classes"]),
        *misread(known["reading"], model),
        *stood_in(known.get("stand_ins", ())),
    ]


def scarce(known: Mapping[str, Any], objectives: Collection[str]) -> list[str]:
    """A warning for each measured split that has too few rows of a class for its figures, as a
    whole or in a part that figures hang on. Arguments as of `cautions`."""
    found = []
    for name in ("validation", "test"):
        whole = known["classes"].get(name, {})
        few = [
            *_few_in_all(whole),
            *_few_of_tasks(known["task_classes"].get(name, {}), whole),
            *_few_with_pictures(known["picture_classes"].get(name, {}), whole, objectives),
            *(_few_for_stages(known["stage_classes"], whole) if name == "validation" else ()),
        ]
        if few:
            rule = f"figures of fewer than about {LEAST_ROWS} rows of a class are mostly chance"
            if name == "validation" and min(whole.values()) < LEAST_SCALED:
                rule += f", and below {LEAST_SCALED} probabilities are left uncalibrated"
            found.append(
                f"{name} has {', '.join(few)}; {rule}; give it more (data.{name}, data.max_rows)"
            )
    return found


def one_sided(missing: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """A warning for each measured split in which tasks lack a class: its skill is the mean over
    other tasks than the next split's."""
    found = []
    for name, tasks in missing.items():
        shown = [f"{task!r:.40} (no {' and no '.join(words)} row)" for task, words in tasks.items()]
        if len(shown) > _TASKS_NAMED:
            shown[_TASKS_NAMED:] = [f"{len(shown) - _TASKS_NAMED} more"]
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
        if n:
            found.append(
                f"{n:,} of {rows[name]:,} {name} rows are training rows as the model reads them: "
                "what differs is cut off, or nothing that it looks at; what they show is not new"
            )
    return found


def stood_in(checkpoints: Iterable[str]) -> list[str]:
    """A warning for each checkpoint that a repair came to other bits for."""
    return [
        f"checkpoint {name} was lost, and trained again to other bits: what its genome is measured "
        "at may be of the weights before"
        for name in checkpoints
    ]


def doubts(correlations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning for each pair of stages where the ranking is not shown to predict the next one."""
    found = []
    for (stage, following), rows in stage_pairs(correlations).items():
        weak = [row for row in rows.values() if row["predicts"] is False]
        named = ", ".join(f"{label(row['objective'])} (rho {rho(row['rho'])})" for row in weak)
        if weak:
            doubt = f"Ranks in {stage} are not shown to predict ranks in {following} in: {named}."
            if any(row["n"] < row["entered"] for row in weak):
                doubt += f" What {stage} let go may be good in these."
            found.append(doubt)
    return found


def chance(member: Mapping[str, Any]) -> str:
    """What is to be said of a front member that is not shown to tell the classes apart better than
    chance; a cheap or odd one can be on a front all the same. Empty for others."""
    test = member["test"].get("task_skill") or {}
    tested = not absent(test.get("value"))
    known = member["details"].get("auroc", member["objectives"].get("task_skill"))
    skill = test["value"] if tested else known  # `task_skill` of a proxy is less than the AUROC
    if absent(skill):
        return ""
    alike = member["details"].get("same_logit", 0.0)
    same = f"; says the same of {share(alike)} of validation rows" if alike >= 0.5 else ""
    if skill <= 0.5:
        split = "test" if tested else "validation"
        return f"no better than chance: {split} AUROC {skill:.3f}{same}"
    if tested and not absent(test.get("low")) and test["low"] <= 0.5:
        ends = bounds("task_skill", test)
        return f"not shown to be better than chance: test AUROC {skill:.3f} ({ends}){same}"
    return ""


def _few_in_all(whole: Classes) -> list[str]:
    few = {word: n for word, n in whole.items() if n < LEAST_ROWS}
    return [_say(few)] if few else []


def _few_of_tasks(tasks: Mapping[str, Classes], whole: Classes) -> list[str]:
    """Tasks with both classes count alike in `task_skill`, however few rows they have. The smallest
    are named."""
    few = {task: _few(own, whole) for task, own in tasks.items() if all(own.values())}
    worst = sorted((task for task in few if few[task]), key=lambda t: min(few[t].values()))
    shown = [f"{_say(few[task])} of task {task!r:.40}" for task in worst]
    if len(shown) > _TASKS_NAMED:
        shown[_TASKS_NAMED:] = [f"few of {plural(len(shown) - _TASKS_NAMED, 'more task')}"]
    return shown


def _few_with_pictures(own: Classes, whole: Classes, objectives: Collection[str]) -> list[str]:
    """The gain is measured on rows with pictures, and attacks on pictures are a part of safety;
    neither where one of the classes has none."""
    named = " and ".join(name for name in ("cross_modal_gain", "safety") if name in objectives)
    few = _few(own, whole)
    if not (named and few and all(own.values())):
        return []
    return [f"{_say(few)} with a picture (for {named})"]


def _few_for_stages(stages: Mapping[str, Classes], whole: Classes) -> list[str]:
    """Early stages choose by a share of validation; those with as few rows are named together."""
    alike: dict[str, list[str]] = {}
    for name, own in stages.items():
        if few := {word: n for word, n in own.items() if n < LEAST_ROWS <= whole[word]}:
            alike.setdefault(_say(few), []).append(name)
    return [f"{said} for {' and '.join(names)} to choose by" for said, names in alike.items()]


def _few(counts: Classes, whole: Classes) -> dict[str, int]:
    """The classes of which a part of a split has few rows. One whose rows are all in this part is
    left out: the warning of the whole split tells of it."""
    return {word: n for word, n in counts.items() if n < LEAST_ROWS and n < whole[word]}


def _say(few: Classes) -> str:
    rows = "row" if list(few.values())[-1] == 1 else "rows"
    return f"{' and '.join(f'{n} {word}' for word, n in few.items())} {rows}"
