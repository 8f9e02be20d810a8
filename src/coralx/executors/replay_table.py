"""The table of recorded learning curves: written by scripts/record_curves.py, looked up in replays.

A Parquet file with a row for each genome and stage of each task. Columns: `task`, `genome`,
`stage`, `gate` (what would have stopped the genome there, else null), `gene/<name>`,
`objective/<name>`, `detail/<name>`, `cost/<name>`, `left_early` and, where training broke down,
`reason`. The schema's metadata say how the table came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from coralx.durable import put_in_place
from coralx.errors import ConfigError, DataError
from coralx.records import Genome, Record, Start, Stop, TrainingResult, TrainingStage
from coralx.search import gates
from coralx.search.space import Space, active, build, has_order, is_number, ladder, position
from coralx.settings.genes import Choice, Gene, SearchSpace
from coralx.wording import epochs

METADATA = b"coralx"
Row = dict[str, Any]
Matrix = NDArray[np.float64]

# Details kept: those that gates look at. The others would be most of the file.
DETAILS = ("auroc", "grad_norm", "loss_slope_t")
# Stops that training itself reports; the other gates are judged anew in every replay.
TRAINING_STOPS = ("non_finite", "out_of_memory")


class TableFacts(Record):
    """How a table came about: what must be equal for two of its rows to compare.

    `stages` are those trained, gates and survival rates as configured, though nobody was left
    behind; `origin` is for reading: command, versions, machine, when.
    """

    space: SearchSpace
    stages: tuple[TrainingStage, ...]
    seed: int
    max_rows: int | None = None
    origin: dict[str, str] = Field(default_factory=dict)


class ReplayTable:
    """Recorded curves of one task: for each genome its results in order of stage.

    Args:
        curves: each of one genome; one that broke down ends with the stage where it did.

    Raises:
        DataError: there are no curves.
    """

    def __init__(
        self,
        space: Space,
        stages: Sequence[TrainingStage],
        curves: Sequence[Sequence[TrainingResult]],
    ) -> None:
        if not curves:
            raise DataError("a replay needs recorded curves, got none; record some first")
        self.space, self.stages = space, tuple(stages)
        self.curves = sorted(curves, key=lambda curve: curve[0].genome.id)
        self._places = np.array([places(space, curve[0].genome) for curve in self.curves])
        self._ordered = np.array([has_order(gene) for gene in space.values()])
        self._nearest: dict[str, tuple[int, float]] = {}  # by genome id

    def look_up(self, genome: Genome, stage: TrainingStage) -> TrainingResult:
        """What the nearest recorded genome came to in the stage; its own breakdown if it broke
        down in an earlier one. `details["replay_distance"]` says how far off it is (0: recorded).

        A surrogate: neighbours share results, so a search cannot find more in the table than was
        recorded; and every curve began with fresh weights, so what a child would inherit of its
        parents is not in it.

        Raises:
            ConfigError: the stage is not one that was recorded.
        """
        index = self._stage_index(stage)
        curve, gap = self._find(genome)
        known = self.curves[curve][min(index, len(self.curves[curve]) - 1)]
        return known.model_copy(update={"details": {**known.details, "replay_distance": gap}})

    def _find(self, genome: Genome) -> tuple[int, float]:
        """Place and distance of the nearest genome; of several, of the first by id."""
        if genome.id not in self._nearest:
            gaps = distances(self._places, np.array(places(self.space, genome)), self._ordered)
            best = int(gaps.argmin())
            self._nearest[genome.id] = best, float(gaps[best])
        return self._nearest[genome.id]

    def _stage_index(self, stage: TrainingStage) -> int:
        for index, known in enumerate(self.stages):
            if _budget(known) == _budget(stage):
                return index
        listed = "; ".join(_describe(s) for s in self.stages)
        rule = f"a replay has the stages that were recorded: {listed}"
        raise ConfigError(
            "hyperband.training_stages",
            [f"{rule}; got {_describe(stage)}; use those"],
        )


def distances(many: Matrix, one: Matrix, ordered: NDArray[np.bool_]) -> Matrix:
    """(N,) distances of many genomes (N, genes) to one (genes,): `coralx.search.space.diversity` of
    two, for a whole table at once.

    Both are given by `places`; `ordered` (genes,) says which of these are distances apart.
    """
    with np.errstate(invalid="ignore"):  # inactive in both: inf - inf
        gaps = np.abs(many - one)
    gaps = np.where(ordered & np.isfinite(gaps), gaps, 1.0)
    return np.asarray(np.where(many == one, 0.0, gaps).mean(axis=1))


def places(space: Space, genome: Genome) -> list[float]:
    """Each gene's place: 0..1 where values have an order, else the number of the value; NaN for
    a value that the gene cannot have, infinity for a gene that is inactive."""
    genes = genome.genes()
    on = active(space, genes)
    return [_place(gene, genes.get(name)) if name in on else np.inf for name, gene in space.items()]


def read_table(path: Path, task: str) -> ReplayTable:
    """The curves of one task.

    Raises:
        DataError: the file is no such table, or has no such task.
    """
    facts, rows = read_rows(path)
    known = sorted({row["task"] for row in rows})
    if task not in known:
        raise DataError(f"{path}: the task must be one of {', '.join(known)}, got {task!r}")
    curves: dict[str, list[TrainingResult]] = {}
    for row in rows:
        if row["task"] == task:
            curves.setdefault(row["genome"], []).append(_as_result(row, facts.stages))
    for curve in curves.values():
        curve.sort(key=lambda result: result.stage_index)
    return ReplayTable(facts.space, facts.stages, list(curves.values()))


def read_rows(path: Path) -> tuple[TableFacts, list[Row]]:
    """How the table came about, and its rows as plain values.

    Raises:
        DataError: it cannot be read, or is no table of curves.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        facts = TableFacts.model_validate_json(table.schema.metadata[METADATA])
    except (OSError, pyarrow.ArrowException, TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: must be a table that scripts/record_curves.py wrote: {error}"
        ) from None
    return facts, table.to_pylist()


def write_rows(path: Path, facts: TableFacts, rows: Sequence[Row]) -> None:
    """Write the table anew, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    table = table.replace_schema_metadata({METADATA: facts.model_dump_json().encode()})
    part = path.with_name(path.name + ".part")
    pyarrow.parquet.write_table(table, part, compression="zstd", compression_level=19)
    put_in_place(part, path)


def as_row(task: str, result: TrainingResult, space: Space, stage: TrainingStage) -> Row:
    """A result as a row; `stage` as configured, for the gate that it would have broken."""
    genes, gate = result.genome.genes(), gates.check(stage, result)
    groups: dict[str, Mapping[str, Any]] = {
        "gene": {name: genes[name] for name in space},
        "objective": result.objectives,
        "detail": {name: result.details[name] for name in DETAILS if name in result.details},
        "cost": result.cost.model_dump(),
    }
    return {
        "task": task,
        "genome": result.genome.id,
        "stage": result.stage,
        "gate": gate.gate if gate else None,
        "reason": result.stopped.reason if result.stopped else None,
        "left_early": result.left_early,
        **{f"{kind}/{n}": value for kind, group in groups.items() for n, value in group.items()},
    }


def _as_result(row: Row, stages: Sequence[TrainingStage]) -> TrainingResult:
    genome = build(_group(row, "gene"))
    index = [stage.name for stage in stages].index(row["stage"])
    stopped = None
    if row["gate"] in TRAINING_STOPS:
        stopped = Stop(gate=row["gate"], value=None, limit=None, reason=row["reason"])
    return TrainingResult(
        job="recorded",
        genome=genome,
        generation=0,
        stage=row["stage"],
        stage_index=index,
        lora_cfg=genome.lora_cfg,
        objectives=_group(row, "objective"),
        details=_group(row, "detail"),
        stopped=stopped,
        left_early=row["left_early"],
        start=Start(kind="continue" if index else "fresh"),
        cost=_group(row, "cost"),
    )


def _group(row: Row, kind: str) -> dict[str, Any]:
    """The values of a kind of column; what a result did not have is null in its row."""
    found = {n.partition("/")[2]: v for n, v in row.items() if n.startswith(f"{kind}/")}
    return {name: value for name, value in found.items() if value is not None}


def _place(gene: Gene, value: Any) -> float:
    if not isinstance(gene, Choice):
        return position(gene, value) if is_number(value) else np.nan
    rungs: Sequence[Any] | None = ladder(gene)
    listed = gene.values if rungs is None else rungs
    if value not in listed:
        return np.nan
    return listed.index(value) / (1 if rungs is None else max(len(rungs) - 1, 1))


def _budget(stage: TrainingStage) -> tuple[str, float, float]:
    return stage.name, stage.epoch_budget, stage.data_percentage


def _describe(stage: TrainingStage) -> str:
    return f"{stage.name} ({epochs(stage.epoch_budget)} of {stage.data_percentage:g} %)"
