"""Arguments that several commands share, and the configuration that they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coralx.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="CONFIG",
        help="YAML file; the built-in job if left out.",
        show_default=False,
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `coralx run` wrote.")]
GenomeId = Annotated[
    str, typer.Argument(metavar="GENOME", help="Id of a trained genome, or how it begins.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code in the base model's folder, if it needs any."
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of all that is random, in place of evolution.seed.")
]
Population = Annotated[
    int | None,
    typer.Option(help="Genomes in a generation, in place of evolution.population."),
]
Generations = Annotated[
    int | None, typer.Option(help="Generations, in place of evolution.generations.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead.")]


def load(path: Path | None, **overrides: int | None) -> Config:
    """The configuration with the command line's own values in its `evolution` section."""
    from coralx.config import load_config

    given = {name: value for name, value in overrides.items() if value is not None}
    return load_config(path, {"evolution": given})
