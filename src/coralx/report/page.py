"""The page itself: headline, chapters, configuration; one file, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from coralx.durable import write_whole
from coralx.objectives import loss
from coralx.report.correlation import correlation_section
from coralx.report.curves import curves_section
from coralx.report.front import explorer_section, table_section
from coralx.report.funnel import funnel_section, stopped_section
from coralx.report.generations import generations_section
from coralx.report.ledger import ledger_section
from coralx.report.lineage import lineage_section
from coralx.report.lives import by_interest, read_lives
from coralx.report.markup import Markup, data_block, element, join, markup, section, table
from coralx.report.plots import card, templates
from coralx.store import History
from coralx.summary import Summary, summarize
from coralx.wording import (
    MISSING,
    absent,
    bounds,
    count,
    duration,
    efficiency_ratio,
    figure,
    gene_value,
    label,
    plural,
    rows_line,
)

CHAPTERS = {
    "front": "Trade-offs",
    "members": "Figures",
    "funnel": "Funnel",
    "prediction": "Prediction",
    "efficiency": "Effort",
    "curves": "Learning",
    "generations": "Progress",
    "lineage": "Lineage",
    "stopped": "Stopped",
    "setup": "Set-up",
}


def write_report(history: History, path: Path) -> None:
    """Write a run's report as one HTML file that works offline. It is replaced whole or not at all.

    Everything that comes from data, configuration or genomes is escaped, and the page carries a
    content policy that lets its own scripts run and nothing be loaded.
    """
    write_whole(path, render_page(history))


def render_page(history: History) -> str:
    """The report's HTML."""
    summary = summarize(history)
    plotly, script = _plotly_script(), _asset("report.js")
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_fingerprint(plotly)} {_fingerprint(script)}"
    )
    title = f"CoralX report: {summary['base_model']}, seed {summary['seed']}"
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{markup(policy)}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Markup(_asset("report.css"))),
    )
    body = element(
        "body",
        _header(summary),
        element("main", *_chapters(history, summary)),
        element("footer", "Drawn by CoralX from the journal of the run. Nothing is loaded."),
        data_block(templates(), id="templates"),
        element("script", Markup(plotly)),
        element("script", Markup(script)),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def _chapters(history: History, summary: Summary) -> list[Markup]:
    lives = by_interest(read_lives(history), next(iter(summary["objectives"])))
    return [
        explorer_section(summary, lives),
        table_section(summary),
        funnel_section(history, lives),
        correlation_section(summary),
        ledger_section(history, summary),
        curves_section(lives),
        generations_section(history, summary),
        lineage_section(history, lives),
        stopped_section(history),
        _setup_section(history, summary),
    ]


def _header(summary: Summary) -> Markup:
    started = str(summary["started"] or "").replace("T", " ")[:16]
    facts = [summary["base_model"], f"seed {summary['seed']}", started, summary["machine"]]
    state = "" if summary["finished"] else element("span", "not finished yet", class_="badge")
    links = (element("a", text, href=f"#{name}") for name, text in CHAPTERS.items())
    return element(
        "header",
        element(
            "div",
            element("p", Markup(_asset("mark.svg")), "CoralX", state, class_="brand"),
            element("h1", _headline(summary)),
            element("p", join([fact for fact in facts if fact], " · "), class_="facts"),
            element("dl", *_cards(summary)),
            class_="wide",
        ),
        element("nav", element("div", *links, class_="wide")),
    )


def _headline(summary: Summary) -> str:
    genomes, front = summary["genomes"], len(summary["front"])
    if not genomes:
        return "No genome has been trained yet"
    tried = f"{plural(genomes, 'adapter')} tried"
    return f"{tried}, {front} that nothing dominates" if front else tried


def _cards(summary: Summary) -> list[Markup]:
    spent = summary["efficiency"]
    ratio, note = efficiency_ratio(summary)
    taken = f"{note}: {count(spent['steps'])}" if note else count(spent["steps"])
    ratio_note = f"{taken} steps; {count(spent['naive_steps'])} to train each genome fully"
    stopped = len({item["genome"] for item in summary["stopped"]})
    generations = len(summary["funnel"])
    trained_note = f"in {plural(generations, 'generation')}; {stopped} stopped by a gate"
    clock_note = f"{duration(spent['seconds'])} of training and evaluation"
    volume = summary["hypervolume"]
    front_note = MISSING if volume is None else f"hypervolume {figure('', volume)}"
    return [
        _best(summary),
        _card("Efficiency ratio", ratio, ratio_note),
        _card("Wall clock", duration(summary["wall_seconds"] or None), clock_note),
        _card("Genomes trained", f"{summary['genomes']:,}", trained_note),
        _card("On the front", f"{len(summary['front']):,}", front_note),
    ]


def _best(summary: Summary) -> Markup:
    """The front's best on validation, with its test figure: choosing by test would flatter it."""
    names = list(summary["objectives"])
    name = "task_skill" if "task_skill" in names else names[0]
    title = "AUROC" if name == "task_skill" else label(name)
    known = [m for m in summary["front"] if not absent(m["objectives"].get(name))]
    if not known:
        return _card(f"Test {title}", MISSING, "no front yet", "first")
    best = min(known, key=lambda member: loss(name, member["objectives"][name]))
    test = best["test"].get(name)
    if test is None or absent(test["value"]):
        value = figure(name, best["objectives"][name])
        return _card(f"Validation {title}", value, "no test measurement yet", "first")
    ends = [bounds(name, test)] if bounds(name, test) else []
    note = "; ".join([*ends, f"{best['genome']}, the best on validation"])
    return _card(f"Test {title}", figure(name, test["value"]), note, "first")


def _card(title: str, value: str, note: str, kind: str | None = None) -> Markup:
    return element(
        "div", element("dt", title), element("dd", value), element("dd", note), class_=kind
    )


def _setup_section(history: History, summary: Summary) -> Markup:
    text = yaml.safe_dump(history.config.model_dump(mode="json"), sort_keys=False)
    counts = {n: rows_line(summary["classes"], n, rows) for n, rows in summary["rows"].items()}
    rows = _pairs("Rows", counts) + _pairs("Rows left out", summary["left_out"])
    tasks = ", ".join(map(str, summary["tasks"]))
    facts: list[Sequence[Any]] = [
        ("Base model", summary["base_model"]),
        ("Seed", summary["seed"]),
        ("Machine", summary["machine"] or MISSING),
        ("Tasks", tasks or MISSING),
        ("Steps per epoch of all rows", count(history.facts.get("steps_per_epoch"))),
        *rows,
        *_pairs("Version", summary["versions"]),
    ]
    caption = "All that a run depends on. Equal settings, data and seed give equal genomes."
    folded = element(
        "details", element("summary", "Configuration, defaults included"), element("pre", text)
    )
    listed = element(
        "details", element("summary", "Machine, data and versions"), table(("", ""), facts)
    )
    return section("setup", "Configuration and versions", caption, card(folded, listed))


def _pairs(title: str, values: Mapping[str, Any]) -> list[Sequence[Any]]:
    return [(f"{title}: {name}", _written(value)) for name, value in values.items()]


def _written(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else gene_value(value)


def _plotly_script() -> str:
    """Imported when called: 5 MB of text that nothing else needs."""
    return str(importlib.import_module("plotly.offline").get_plotlyjs())


def _asset(name: str) -> str:
    return (resources.files("coralx") / "assets" / "report" / name).read_text(encoding="utf-8")


def _fingerprint(script: str) -> str:
    """The script's name in the content policy: only what was written here may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
