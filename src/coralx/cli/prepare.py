"""`coralx plan`, `coralx compare` and `coralx init`: before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from coralx.cli.arguments import AsJson, ConfigFile, Generations, Population, Seed, load
from coralx.cli.output import BAD_INPUT, open_console, quiet_stdout, quote, tell
from coralx.interrupts import INTERRUPTED, unbroken

MOST_STEPS = 1e12  # of an epoch; sums of steps are finite and exact far beyond


def plan(
    config: ConfigFile = None,
    steps_per_epoch: Annotated[
        float | None,
        # Typer's own bounds hold what they name, so that its help would let 0 pass.
        typer.Option(
            help="Batches in an epoch of all rows, above 0; counted from the data if left out."
        ),
    ] = None,
    population: Population = None,
    generations: Generations = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run will cost before it starts.

    Steps per stage against naive full training, unrounded and as they will be trained; tokens,
    FLOPs and memory, estimated. Rows are read, and warned of, as by the run, pictures
    unopened; the base model's settings are checked. Stages and totals are of one generation, but
    for those of the whole run (`run` with --json). Nothing is loaded or trained.

    Example: `coralx plan configs/seed.yaml --steps-per-epoch 1000 --population 8 --json`
    """
    from coralx.plan.cost import plan_run

    settings = load(config, population=population, generations=generations)
    if steps_per_epoch is not None and not 0 < steps_per_epoch <= MOST_STEPS:
        raise typer.BadParameter(
            f"must be above 0 and at most {MOST_STEPS:g}, got {steps_per_epoch:g}",
            param_hint="--steps-per-epoch",
        )
    found = plan_run(settings, steps_per_epoch)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from coralx.plan.table import render_plan

    render_plan(found, open_console())


def compare(
    config: ConfigFile = None,
    genomes: Annotated[
        int, typer.Option(min=1, help="How many of the configuration's generation 0.")
    ] = 4,
    rows: Annotated[
        int, typer.Option(min=8, help="Rows of each split at most: a stratified share.")
    ] = 500,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Train the same genomes by CoralX and naively, and see what is saved.

    Three ways, one run, one machine, the same rows. **simulation**: an instant guess from the
    hyper-parameters; no training, figures invented, here to be told from the real ones.
    **naive**: one PEFT adapter after another for all epochs, as done by hand, its probabilities
    left as they are. **hyperband**: one generation through CoralX's stages. Naive training of
    everyone is what takes the time, so the defaults are small: a few minutes on 2 cores for the
    built-in job. What it will take is said on stderr before training starts; Ctrl-C shows what was
    measured so far. Where no adapter comes of CoralX's side, that is said, naive goes on, and the
    exit code is 2.

    Examples: `coralx compare`, `coralx compare configs/quick.yaml --json`,
    `coralx compare my-job/config.yaml --genomes 8 --rows 100000`
    """
    from coralx.cli.progress import follow
    from coralx.compare.comparison import Comparison, small_version
    from coralx.compare.table import render_comparison
    from coralx.models import resolve_model

    settings, chosen = small_version(load(config, seed=seed), genomes, rows)
    resolve_model(settings.base_model)  # a wrong name is told before torch is loaded
    comparison, stopped = Comparison(settings, chosen), False
    try:
        with quiet_stdout(), follow(settings, open_console(stderr=True)) as view:
            comparison.measure(view)
    except KeyboardInterrupt:
        stopped = True
    with unbroken():  # one more Ctrl-C does not lose what took minutes
        if stopped:
            tell("\nstopped; what was measured so far:")
        found = comparison.document()
        if as_json:
            typer.echo(json.dumps(found, indent=2, allow_nan=False))
        else:
            render_comparison(found, open_console())
    if stopped or found["extinct"]:
        raise typer.Exit(INTERRUPTED if stopped else BAD_INPUT)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; made if needed.")],
) -> None:
    """Write a commented configuration and sample rows to start from.

    The job runs as it stands. Put your own rows in place of train.jsonl, validation.jsonl and
    test.jsonl, and edit config.yaml. Nothing is overwritten.

    Example: `coralx init my-job` and then `coralx run my-job/config.yaml`
    """
    from coralx.cli.starter import write_starter

    for path in write_starter(folder):
        typer.echo(f"wrote {path}")
    typer.echo(f"\nNext: coralx run {quote(folder / 'config.yaml')}")
