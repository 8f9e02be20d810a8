"""What a run will cost as a terminal table."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coralx.plan.cost import Plan
from coralx.wording import (
    ACCENT,
    clean,
    count,
    epochs,
    fewer,
    large,
    megabytes,
    of_splits,
    plural,
    tera,
)

UNSEEN = (
    "Not looked at, as a run does before it trains: pictures themselves, the model's weights and "
    "tokenizer, functions of your own."
)


def render_plan(plan: Plan, console: Console) -> None:
    """Print the plan: the stages of one generation, then what the whole run comes to."""
    run = plan["run"]
    most = "at most " if "rows" in plan["estimated"] else ""
    rows = f"{most}{count(plan['rows'])} training rows, " if plan["rows"] else ""
    console.print(
        Text.assemble(
            (f"{plural(plan['population'], 'genome')} a generation", "bold"),
            f", {plural(run['generations'], 'generation')}; {rows}"
            f"batches of {plan['batch_size']}, {count(plan['steps_per_epoch'])} steps an epoch",
        ),
    )
    for text in plan["warnings"]:
        console.print(Text(clean(f"Warning: {text}"), style=ACCENT))
    console.print()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("stage", overflow="fold")
    for heading in ("genomes", "steps each", "steps", "~tokens", "~TFLOP", "~peak MB"):
        table.add_column(heading, justify="right")
    for stage in plan["stages"]:
        numbers = [count(stage["genomes"]), _exactly(stage["steps_per_genome"])]
        table.add_row(Text(stage["name"]), *numbers, *_costs(stage, stage["steps"]))
    total = _costs(plan, plan["hyperband_steps"])
    table.add_row("one generation", "", "", *total, style="bold")
    if run["generations"] > 1:
        spent = _costs({**run, "memory": plan["memory"]}, run["hyperband_steps"])
        table.add_row("whole run", count(run["genomes"]), "", *spent, style="bold")
    console.print(table)
    console.print(_describe_saving(plan), highlight=False)
    for line in (
        *_describe_idle_gates(plan),
        *(f"Warning: {text}." for text in plan["unmeasured"]),
        *_describe_cut(plan),
        *_describe_frozen(plan),
        UNSEEN,
    ):
        console.print(line, highlight=False, markup=False)


def _describe_saving(plan: Plan) -> str:
    lines = [
        f"\nNaive full training, {epochs(plan['naive_epochs'])} each: "
        f"{_exactly(plan['naive_steps'])} steps; "
        f"staged: {_exactly(plan['hyperband_steps'])} steps; {fewer(plan['speedup'])}."
    ]
    run = plan["run"]
    if run["generations"] > 1:
        lines.append(
            f"Over {run['generations']} generations: {_exactly(run['naive_steps'])} against "
            f"{_exactly(run['hyperband_steps'])} steps."
        )
    whole = plan["whole"]
    lines.append(
        f"Trained are whole steps of each genome in each stage: {count(whole['naive_steps'])} "
        f"naive; {count(whole['hyperband_steps'])} staged; {fewer(whole['speedup'])}."
    )
    lines.append(
        "Steps in the table are unrounded, if every genome passes its gates. ~ marks estimates: "
        "tokens from the length of the texts, FLOPs of training alone, memory of base, adapters "
        "and activations, in training or in evaluation, without Python and its libraries."
    )
    return "\n".join(lines)


def _describe_idle_gates(plan: Plan) -> Iterator[str]:
    for stage in plan["stages"]:
        if gates := stage["idle_gates"]:
            needs = " and ".join(f"{gate} (from {least} on)" for gate, least in gates.items())
            steps = plural(stage["whole_steps_per_genome"], "step")
            yield f"{stage['name']}: {steps} a genome, too few for {needs} to act."


def _describe_cut(plan: Plan) -> Iterator[str]:
    cut, texts = ({name: own[key] for name, own in plan["cut"].items()} for key in ("cut", "texts"))
    if some := of_splits(cut, texts):
        yield (
            f"Warning: about {some} texts are longer than data.max_tokens ({plan['max_tokens']}) "
            "and would be cut."
        )


def _describe_frozen(plan: Plan) -> Iterator[str]:
    frozen = plan["frozen_outputs"]
    if frozen and frozen["bytes"]:
        kept, filed = frozen["in_memory"], frozen["bytes"] - frozen["in_memory"]
        places = {"in memory beside the peak": kept, "in files of the run": filed}
        parts = [f"~{megabytes(size)} MB {where}" for where, size in places.items() if size]
        yield (
            f"Frozen outputs of the training rows: {' and '.join(parts)}; those of the rows that "
            "are measured come on top."
        )


def _costs(line: Plan, steps: float) -> list[str]:
    return [_exactly(steps), large(line["tokens"]), tera(line["flops"]), megabytes(line["memory"])]


def _exactly(number: float) -> str:
    """All digits that say something: 6,500 and 2.5."""
    return f"{number:,.10g}" if number < 1e10 else f"{number:,.0f}"
