"""HyperbandTrainer: a given population through the stages, without evolution around it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from coralx.cautions import warn_python
from coralx.config import PREFIX_FOLDER, Config, load_config
from coralx.errors import CheckpointError, CoralXError, ModelError
from coralx.loop import run
from coralx.records import Genome, LoRAConfig, Progress, TrainingResult
from coralx.runs.facts import run_facts, warn_of_rows
from coralx.search.budget import efficiency
from coralx.search.evolution import new_search
from coralx.settings.problems import describe_value, explain
from coralx.store import History, NoStore

if TYPE_CHECKING:
    from coralx.train.backbone import Backbone
    from coralx.train.worker import Worker


class HyperbandTrainer:
    """Trains genomes through Hyperband stages (Li et al., JMLR 18(185), 2018) on real data.

    Args:
        config: a mapping, a path to YAML, a Config, or None for the default job.
        checkpoints: folder for trained weights and nothing else; a temporary one, gone with the
            trainer, if None.
        observe: told how far training is, after each step: by one call at a time, not always from
            the caller's thread. What it raises ends training.
        say: told what is being loaded and, in texts that begin with "warning:", what the rows are
            too few for and what is not read of them. By default these are Python's warnings.

    Raises:
        ConfigError: with every problem of the configuration.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        checkpoints: str | Path | None = None,
        observe: Callable[[Progress], None] = lambda _: None,
        say: Callable[[str], None] = warn_python,
    ) -> None:
        self.config = load_config(config)
        self._observe, self._say = observe, say
        self._folder = Path(tempfile.mkdtemp(prefix="coralx-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.checkpoints = Path(checkpoints or self._folder / "checkpoints").absolute()
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        """The base model and rows, loaded when first needed.

        Raises:
            DataError, ModelError: what the configuration names cannot be used.
        """
        from coralx.train.worker import Worker

        if self._worker is None:
            prefix = self._folder / PREFIX_FOLDER
            self._worker = Worker(self.config, self.checkpoints, self._say, prefix)
            # Said once it is kept: a caller may make errors of warnings.
            warn_of_rows(run_facts(self.config, self._worker), self.config, self._say)
        return self._worker

    def train_population(self, genomes: Iterable[Genome]) -> list[TrainingResult]:
        """Train genomes through all stages; one result per genome and stage it entered.

        There is no journal, as a run has one: what an error breaks off is begun anew.

        Raises:
            CoralXError: no genomes, something else than genomes, one id twice, or one that adapts
                more blocks than the base model has; or the hook fails.
            ConfigError: no objective can be measured, or a function cannot be imported.
            DataError, ModelError: what the configuration names cannot be used, or a genome adapts
                modules that the base model has not.
            ObjectiveError: a function of the caller's own fails.
            ExecutorError: workers cannot be started, or end again and again.
            StoreError: the disk cannot be written, or a checkpoint is lost.
            ExtinctError: every genome was stopped; the message lists each reason.
        """
        from coralx.executors import open_executor

        population = _check_population(genomes)
        settings = self.config.evolution.model_copy(update={"generations": 1})
        config = self.config.model_copy(update={"evolution": settings})
        bench = self.worker.bench
        _check_depth(population, config.base_model, bench.backbone.depth)
        _check_targets(population, bench.backbone)
        bench.check_objectives()
        evolution = new_search(config, population, bench.has_images, bench.shape)
        with open_executor(self.worker, self._observe, say=self._say) as executor:
            run(evolution, executor, NoStore(), History(config, {}))
        return evolution.results

    def export(self, result: TrainingResult, folder: str | Path) -> None:
        """Write a genome as it was trained in a stage as a PEFT adapter, with what `Predictor`
        needs to score with it.

        Raises:
            CheckpointError: its weights are missing or damaged.
            StoreError: it has no weights or no decision threshold, or the folder cannot be written
                or holds something else than an adapter.
        """
        if not isinstance(result, TrainingResult):
            raise CoralXError(
                f"result must be a TrainingResult, got {result!r:.60}; give one of those that "
                "train_population returned"
            )
        try:
            self.worker.export(result, Path(folder))
        except CheckpointError as damage:
            raise CheckpointError(
                damage.checkpoint,
                damage.reason,
                "export it with the trainer whose result it is, or train the genome again",
            ) from None

    def get_training_efficiency_report(self, results: Iterable[TrainingResult]) -> dict[str, Any]:
        """What was spent, per stage, against naive full training of the same genomes.

        `efficiency_ratio` is naive steps / steps taken.
        """
        return efficiency(
            list(results),
            self.config.hyperband.stages,
            self.worker.bench.steps_per_epoch,
            self.config.hyperband.full_epochs,
        )


def _check_depth(population: Iterable[Genome], base_model: str, blocks: int) -> None:
    """Deeper genomes would train as those of all blocks do, and be recorded as what they are not;
    runs refuse a space of them."""
    for genome in population:
        layers = genome.lora_cfg.layers
        if layers != "all" and layers > blocks:
            raise CoralXError(
                f"genome {genome.id}: layers: {base_model} has {blocks} blocks, got {layers}; give "
                f"{blocks} or fewer, or 'all'"
            )


def _check_targets(population: Iterable[Genome], backbone: Backbone) -> None:
    """Told before any genome trains, not when the first pack with such a one does."""
    for genome in population:
        try:
            backbone.find_targets(genome.lora_cfg.target_modules, "all")
        except ModelError as error:
            raise ModelError(f"genome {genome.id}: {error}") from None


def _check_population(genomes: Iterable[Genome]) -> list[Genome]:
    """The genomes as a list, told from what a caller may give by mistake."""
    if isinstance(genomes, Genome) or not isinstance(genomes, Iterable):
        raise CoralXError(f"genomes must be a list of Genome, got {describe_value(genomes)}")
    population = list(genomes)
    if not population:
        raise CoralXError(
            "genomes must hold at least one Genome, got an empty list; make some, as by "
            "Genome(learning_rate=2e-3)"
        )
    for genome in population:
        if not isinstance(genome, Genome):
            raise CoralXError(
                f"genomes must be a list of Genome, got one with {describe_value(genome)}; make it "
                "one by Genome.model_validate"
            )
    return [_check_again(genome) for genome in population]


def _check_again(genome: Genome) -> Genome:
    """The genome, if its rules hold: pydantic can make records without asking them."""
    try:
        return Genome.model_validate(genome.model_dump(warnings=False))
    except ValidationError as error:
        problems = "; ".join(explain(error, {"": Genome, "lora_cfg": LoRAConfig}))
        raise CoralXError(f"genome {describe_value(genome.id)}: {problems}") from None
