"""How names and figures are written for people: labels, units, digits."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from coralx.objectives import describe, in_units
from coralx.records import Genome

LISTED = 10  # names in a message
ACCENT = "#e8593f"  # of what a reader is to see first, as warnings
MISSING = "–"  # noqa: RUF001 - an en dash says "no value" better than a hyphen does

GENE_SIGNS = {
    "learning_rate": "lr",
    "alpha": "α",  # noqa: RUF001
    "weight_decay": "wd",
    "use_rslora": "rslora",
}


def label(objective: str) -> str:
    """The name of an objective in a heading; a user's own keeps its name."""
    return describe(objective).label


def label_with_unit(objective: str) -> str:
    """As `label`, for what stands over bare numbers."""
    unit = describe(objective).unit
    return f"{label(objective)}, {unit}" if unit else label(objective)


def better(direction: str) -> str:
    return "lower is better" if direction == "min" else "higher is better"


def clean(value: Any, kept: str = "") -> str:
    """Text from elsewhere without what could steer a terminal: control characters, separators of
    lines, halves of characters and marks that turn the direction of writing; `kept` stay."""
    return "".join("\ufffd" if _steers(sign) and sign not in kept else sign for sign in str(value))


def _steers(sign: str) -> bool:
    turning = "\u202a" <= sign <= "\u202e" or "\u2066" <= sign <= "\u2069"
    return turning or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")


def absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def figure(objective: str, value: float | None) -> str:
    """An objective's value: with three decimals or, in a unit of its own as memory in MB (10^6
    bytes), with one."""
    if value is None or math.isnan(value):
        return MISSING
    shown = in_units(objective, value)
    return f"{shown:,.1f}" if describe(objective).unit else f"{shown:.3f}"


def bounds(objective: str, interval: Mapping[str, Any]) -> str:
    """The interval of a test figure, without the value itself. Empty where there is none: memory
    does not depend on which rows are drawn, and an own objective is not measured on resamples."""
    if not describe(objective).drawn or absent(interval["low"]) or absent(interval["high"]):
        return ""
    low, high = (figure(objective, interval[key]) for key in ("low", "high"))
    return f"{low} to {high}"


def count(value: float | None) -> str:
    """A number of things: whole where it is whole, else with one decimal."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def fewer(ratio: float) -> str:
    """How many times fewer, or more where it is that: a few genomes can take more steps in stages
    than in full."""
    return f"{1 / ratio:.2f}x more" if 0 < ratio < 1 else f"{ratio:.2f}x fewer"


def large(value: float | None) -> str:
    """A large number in three digits and a letter: 12,345,678 -> 12.3M."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}" if abs(value) < 999.5 * size else f"{value:.2e}"
    return f"{value:.3g}"


def tera(value: float | None) -> str:
    """In units of 10^12, three digits or more."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value / 1e12:,.0f}" if value >= 1e14 else f"{value / 1e12:.3g}"


def ratio(value: float | None) -> str:
    return f"{value:.2f}×" if value and math.isfinite(value) else MISSING  # noqa: RUF001


def efficiency_ratio(summary: Mapping[str, Any]) -> tuple[str, str]:
    """The ratio, and what to say beside it. Until a run is finished early stages flatter it, and
    where nobody passed them there is nothing that steps were saved on."""
    written = ratio(summary["efficiency"]["efficiency_ratio"])
    if summary["finished"] or written == MISSING:
        return written, ""
    if len({item["genome"] for item in summary["stopped"]}) == summary["genomes"]:
        return MISSING, "every genome so far was stopped"
    return written, "so far, which later stages lower"


def share(value: float | None) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.0f}%"


def megabytes(value: float | None) -> str:
    return MISSING if not value else f"{value / 1e6:,.0f}"


def measured_part(summary: Mapping[str, Any]) -> str:
    """What a run's peak memory is of: the whole process, libraries included, or the device. A
    plan's is of base, adapters and activations alone."""
    return "device" if str(summary.get("machine")).endswith("cuda") else "process"


def spent_cells(line: Mapping[str, Any]) -> list[str]:
    """What a stage, or all of them, cost: steps, tokens, TFLOP, seconds, peak MB, share busy."""
    return [
        count(line["steps"]),
        large(line["tokens"]),
        tera(line["flops"]),
        f"{line['seconds']:,.1f}",
        megabytes(line["peak_memory"]),
        share(line["busy_share"]),
    ]


def duration(seconds: float | None) -> str:
    """Two units at most: 4.2 s, 6 min 12 s, 2 h 05 min."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds + 0.5) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds + 0.5) % 60:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def epochs(number: float) -> str:
    """So many epochs, a part of one among them, in all digits that say something."""
    return f"{number:,.10g} epoch" + ("" if number == 1 else "s")


def gene_value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "+".join(map(str, value))
    return str(value)


def genes_line(
    genes: Mapping[str, Any],
    trained_rank: int | None = None,
    space: Collection[str] | None = None,
) -> str:
    """The genes that matter in one line. Left out are switches that are off, zeros and, if a
    `space` is given, genes that are not in it and have their default values."""
    usual = {name: gene_value(value) for name, value in Genome().genes().items()}
    parts = []
    for name, value in genes.items():
        if value is False or value is None or value in (0, 0.0):
            continue
        if name == "r" and trained_rank not in (None, value):
            parts.append(f"r {value} grown to {trained_rank}")
        elif space is not None and name not in space and gene_value(value) == usual.get(name):
            continue
        elif name == "target_modules":
            parts.append(gene_value(value))
        elif name == "layers":
            parts.append("all layers" if value == "all" else f"last {plural(value, 'layer')}")
        else:
            sign = GENE_SIGNS.get(name, name)
            parts.append(sign if value is True else f"{sign} {gene_value(value)}")
    return " · ".join(parts)


def rho(value: float | None) -> str:
    """A rank correlation: two decimals, as its interval is never narrower."""
    return MISSING if value is None else f"{value:.2f}"


def stage_pairs(
    correlations: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """The rows of `stage_correlation` by stage and next stage, then by objective."""
    pairs: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in correlations:
        pairs.setdefault((row["stage"], row["next_stage"]), {})[row["objective"]] = row
    return pairs


def seen_of_entered(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """`12 of 24`: genomes ranked in both stages, of those measured in the first."""
    seen, entered = (max(row[key] for row in rows.values()) for key in ("n", "entered"))
    return f"{seen:,} of {entered:,}"


def rows_line(classes: Mapping[str, Mapping[str, int]], name: str, rows: int) -> str:
    """How many rows a split has, and of which class where that is known."""
    known = classes.get(name)
    return f"{rows:,}" + (f" ({known['unsafe']:,} unsafe, {known['safe']:,} safe)" if known else "")


def of_splits(counts: Mapping[str, int], rows: Mapping[str, int]) -> str:
    """`3 of 64 train, 1 of 20 test`; empty where none is counted."""
    return ", ".join(f"{n:,} of {rows[name]:,} {name}" for name, n in counts.items() if n)
