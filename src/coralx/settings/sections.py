"""The sections of a configuration: one class each, with every default and every rule.

Rules between sections are in config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from coralx.records import Number, TrainingStage, Whole
from coralx.settings.genes import Settings
from coralx.settings.problems import describe_value, nearest

DEFAULT_STAGES = (
    TrainingStage(
        name="S0_sanity",
        epoch_budget=0.05,
        data_percentage=5,
        survival_rate=1.0,
        max_grad_norm=5.0,
        stop_if_loss_rises=True,
    ),
    TrainingStage(
        name="S1_shakeout",
        epoch_budget=0.3,
        data_percentage=20,
        survival_rate=0.5,
        min_auroc=0.55,
    ),
    TrainingStage(
        name="S2_serious",
        epoch_budget=1.0,
        data_percentage=100,
        survival_rate=0.25,
        min_auroc=0.55,
    ),
    TrainingStage(name="S3_finisher", epoch_budget=2.0, data_percentage=100, survival_rate=0.1),
)
_KNOWN = {stage.name: stage for stage in DEFAULT_STAGES}
_GATES = [name for name, field in TrainingStage.model_fields.items() if not field.is_required()]
# Stages (from the first) in which the cross-modal proxy scores multi-modal genomes on text alone.
PROXY_STAGES = 2


class DataSettings(Settings):
    """Which rows are trained on and measured, and what their columns are called.

    Without `train` the data set inside the package is used. Without `validation` or `test` files,
    stratified shares of the training rows are set aside; without `clean_holdout` P3 is measured on
    the benign rows of the split alone.
    """

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    clean_holdout: Path | None = None
    text_column: str = Field(default="text", min_length=1)
    label_column: str = Field(default="label", min_length=1)
    # None reads no pictures, or makes all rows one task; so does a default that no file has.
    image_column: str | None = Field(default="image", min_length=1)
    task_column: str | None = Field(default="task", min_length=1)
    # Whether a picture's path may lead out of the folder that its data file lies in.
    allow_outside_images: bool = False
    on_bad_rows: Literal["refuse", "skip"] = "refuse"
    max_tokens: Whole = Field(default=64, ge=4, le=8192)
    # Of each split; a stratified share, for a try.
    max_rows: Whole | None = Field(default=None, ge=8)

    @field_validator("validation", "test", "clean_holdout")
    @classmethod
    def _check_train_given(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("train", path) is None:
            raise ValueError(
                f"given without train, got {describe_value(str(path))}; name the training file too"
            )
        return path

    @field_validator("label_column", "image_column")
    @classmethod
    def _check_own_column(cls, column: str | None, info: ValidationInfo) -> str | None:
        for other in ("text_column", "label_column"):
            # One that was refused is not there, and no picture column is none of its name.
            if column is not None and info.data.get(other) == column:
                raise ValueError(f"must not be that of {other}, got {column!r}; name another")
        return column


class EvolutionSettings(Settings):
    """Who lives and who breeds."""

    population: Whole = Field(default=8, ge=1, le=100_000)
    generations: Whole = Field(default=3, ge=1, le=100_000)
    seed: Whole = Field(default=0, ge=0, lt=2**63)
    crossover_rate: Number = Field(default=0.7, ge=0, le=1)
    mutation_rate: Number = Field(default=0.3, ge=0, le=1)
    tournament_size: Whole = Field(default=2, ge=1)
    promote_by: str = "rank"
    # Who goes first where neither of two dominates: see search/tiebreak.py.
    tie_break: Literal["crowding", "niching", "hypervolume", "epsilon"] = "hypervolume"
    warm_start: bool = True
    # PBT: the lowest share of those that leave a stage are replaced by mutated copies of the best.
    exploit_below: Number = Field(default=0.0, ge=0, le=0.5)
    # Whose weights a child of two parents starts from: the better one's, or both merged.
    crossover_weights: Literal["inherit", "average", "ties", "dare"] = "inherit"
    merge_shares: Literal["equal", "rank"] = "equal"
    merge_density: Number = Field(default=0.5, gt=0, lt=1)

    @field_validator("tournament_size")
    @classmethod
    def _check_tournament(cls, size: int, info: ValidationInfo) -> int:
        population = info.data.get("population", size)
        if size > max(population, 2):  # the default serves a population of one as well
            raise ValueError(f"must not be above population ({population}), got {size}")
        return size


class TrainingSettings(Settings):
    """How a pack is trained. The same for every genome, so that comparisons are paired."""

    batch_size: Whole = Field(default=8, ge=1, le=65_536)
    clip_norm: Number | None = Field(default=1.0, gt=0)
    pack_size: Whole = Field(default=8, ge=1, le=1024)
    # Of what training or evaluating a pack adds to the frozen base, which is there in any case.
    memory_budget_gb: Number = Field(default=4.0, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Of the frozen layers' matrix products; all else is in `dtype`: see train/frozen.py.
    frozen_products: Literal["auto", "float32", "bfloat16"] = "auto"
    # Record steps on a GPU and replay them: see train/graphs.py.
    cuda_graphs: bool = True
    threads: Whole | None = Field(default=None, ge=1, le=1024)
    # Processes that train packs side by side: see executors/ray_pool.py.
    workers: Whole = Field(default=1, ge=1, le=1024)
    prefix_cache: bool = True
    # Beyond it frozen outputs are kept in mapped files inside the run's folder.
    prefix_memory_gb: Number = Field(default=2.0, ge=0)
    evaluation_batch: Whole = Field(default=32, ge=1, le=65_536)
    # Scale logits to the validation rows, in exports as well: see train/scaling.py.
    calibrate: bool = True
    attack_rows: Whole = Field(default=24, ge=0, le=1_000_000)
    bootstrap_draws: Whole = Field(default=1000, ge=0, le=1_000_000)
    evaluations_per_stage: Whole = Field(default=6, ge=1, le=1000)
    patience: Whole | None = Field(default=2, ge=1)
    # Gain in task_skill that counts as an improvement to patience.
    least_gain: Number = Field(default=0.002, ge=0, le=1)
    # A function `module:function` that is called before a genome trains a stage: see train/hook.py.
    hook: str | None = None

    @field_validator("hook")
    @classmethod
    def _check_hook(cls, name: str | None) -> str | None:
        if name is not None and not all(name.partition(":")):
            raise ValueError(f"must be named 'module:function', got {name!r}; or null for none")
        return name


class StorageSettings(Settings):
    """What a run keeps on disk.

    Checkpoints that a stage, a child or the front may still need are always kept. Others stay,
    the newest first, while all together take no more than `checkpoints_gb`; they make `export`
    of any genome and the repair of a damaged checkpoint cheap.
    """

    checkpoints_gb: Number = Field(default=2.0, ge=0)


class HyperbandSettings(Settings):
    """The stages a genome goes through and what happens between them."""

    enable_hyperband: bool = True
    training_stages: tuple[TrainingStage, ...] = Field(default=DEFAULT_STAGES, min_length=1)
    grow_rank_at: str | None = "S2_serious"
    grow_below_rank: Whole = Field(default=16, ge=1, le=1024)
    # Off: picture features are kept, so it saves little and hides what a genome makes of them.
    cross_modal_proxy: bool = False
    # Whether a stage's best go on once all are told, or as soon as somebody is free for them.
    promotion: Literal["halving", "asha"] = "halving"
    adaptive_budgets: bool = False
    naive_epochs: Number | None = Field(default=None, gt=0, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _fill_known_stages(cls, data: Any) -> Any:
        """A stage that bears a default stage's name gets that stage's gates where it sets none."""
        stages = data.get("training_stages") if isinstance(data, Mapping) else None
        if not isinstance(stages, list | tuple):
            return data
        return {**data, "training_stages": [_fill_gates(stage) for stage in stages]}

    @field_validator("training_stages")
    @classmethod
    def _check_stages(cls, stages: tuple[TrainingStage, ...]) -> tuple[TrainingStage, ...]:
        problems = []
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            problems.append(f"names must differ, got {', '.join(names)}; rename one")
        shares = [stage.data_percentage for stage in stages]
        if shares != sorted(shares):
            problems.append(
                "data_percentage must not shrink from stage to stage (subsets are nested), got "
                f"{', '.join(f'{share:g}' for share in shares)}; put the stages in order"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return stages

    @field_validator("grow_rank_at")
    @classmethod
    def _check_growth(cls, name: str | None, info: ValidationInfo) -> str | None:
        names = [stage.name for stage in info.data.get("training_stages", ())]
        default = cls.model_fields["grow_rank_at"].default  # means nothing to stages of other names
        if name is None or not names or name in names[1:] or name == default:
            return name
        if name == names[0]:
            later = ", ".join(names[1:])
            raise ValueError(
                "must be a stage after the first, which is entered with the ranks of the genes, "
                f"got {name!r}; name {f'one of {later}, or null' if later else 'null'}"
            )
        close = nearest(name, names)
        hint = f"; did you mean {close!r}?" if close else "; name one of them, or null"
        raise ValueError(f"must be one of the stages ({', '.join(names)}), got {name!r}{hint}")

    @field_validator("adaptive_budgets")
    @classmethod
    def _check_budgets(cls, adaptive: bool, info: ValidationInfo) -> bool:
        stages = info.data.get("training_stages", DEFAULT_STAGES)
        if not adaptive:
            return adaptive
        if len(stages) != 4:
            raise ValueError(
                f"shares out the steps of four training_stages, got {len(stages)}; "
                "write down four, or set it to false"
            )
        for key, value in (("enable_hyperband", True), ("promotion", "halving")):
            if info.data.get(key, value) != value:
                raise ValueError(
                    f"needs {key}: {str(value).lower()}, got {describe_value(info.data[key])}; "
                    "set one or the other"
                )
        return adaptive

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """The stages in force: the last one alone when Hyperband is off."""
        return self.training_stages if self.enable_hyperband else self.training_stages[-1:]

    @property
    def text_stages(self) -> tuple[TrainingStage, ...]:
        """Those of `stages` in which the cross-modal proxy scores rows with pictures by text
        alone."""
        proxies = PROXY_STAGES if len(self.stages) > PROXY_STAGES else 0
        return self.stages[:proxies] if self.cross_modal_proxy else ()

    def is_proxy(self, stage_index: int, pictured: bool) -> bool:
        """Whether a stage trains and scores by text alone, though rows have pictures (`pictured`):
        thresholds and scalings of it know nothing of them."""
        return pictured and stage_index < len(self.text_stages)

    @property
    def growth_stage(self) -> int | None:
        """The place among `stages` of the one whose entrants grow, None if there is none. The
        first is entered with the ranks of the genes."""
        later = [stage.name for stage in self.stages[1:]]
        return 1 + later.index(self.grow_rank_at) if self.grow_rank_at in later else None

    @property
    def full_epochs(self) -> float:
        """Epochs of naive full training: those of the last stage unless set."""
        return self.naive_epochs or self.training_stages[-1].epoch_budget


def _fill_gates(stage: Any) -> Any:
    """The stage with the gates that it does not set as the default stage of its name has them."""
    built = isinstance(stage, TrainingStage)
    given = {n: getattr(stage, n) for n in stage.model_fields_set} if built else stage
    name = given.get("name") if isinstance(given, Mapping) else None
    if not isinstance(name, str) or name not in _KNOWN:
        return stage
    return {**{gate: getattr(_KNOWN[name], gate) for gate in _GATES}, **given}
