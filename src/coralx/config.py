"""YAML -> typed settings; every problem is reported at once, with the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from coralx.errors import ConfigError
from coralx.records import GeneValue, TrainingStage

OBJECTIVES = {
    "task_skill": "max",
    "safety": "max",
    "false_positive_cost": "min",
    "memory": "min",
    "cross_modal_gain": "max",
    "calibration": "max",
}


class Settings(BaseModel):
    """Immutable section of the configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Choice(Settings):
    """One of a list of values, each as likely."""

    kind: Literal["choice"] = "choice"
    values: tuple[GeneValue, ...] = Field(min_length=1)


class Integer(Settings):
    """A whole number from low to high, both included."""

    kind: Literal["integer"] = "integer"
    low: int
    high: int

    @model_validator(mode="after")
    def _check(self) -> Integer:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got {self.low} > {self.high}")
        return self


class Float(Settings):
    """A number from low to high, uniform on a linear or logarithmic scale."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Float:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got {self.low} > {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low > 0, got {self.low}")
        return self


Gene = Annotated[Choice | Integer | Float, Field(discriminator="kind")]

# Which genes matter, from the tuned-LoRA literature: learning rate most, then which layers are
# adapted, then rank (Biderman et al. 2024, arXiv:2405.09673; Schulman 2025, "LoRA Without Regret").
DEFAULT_SPACE: dict[str, Gene] = {
    "r": Choice(values=(2, 4, 8, 16)),
    "alpha": Choice(values=(8, 16, 32)),
    "dropout": Choice(values=(0.0, 0.05, 0.1)),
    "target_modules": Choice(
        values=(
            ("query", "value"),
            ("query", "key", "value", "output"),
            ("up", "down"),
            ("all-linear",),
        )
    ),
    "layers": Choice(values=(1, 2, 3)),
    "learning_rate": Float(low=2e-4, high=4e-3, log=True),
    "weight_decay": Choice(values=(0.0, 0.01)),
    "use_rslora": Choice(values=(False, True)),
}

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


class DataSettings(Settings):
    """Which rows are trained on and measured, and what their columns are called.

    Without `train` the data set inside the package is used. Without `validation`, `test` or
    `clean_holdout` files, stratified shares of the training rows are set aside.
    """

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    clean_holdout: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    image_column: str = "image"
    task_column: str = "task"
    on_bad_rows: Literal["refuse", "skip"] = "refuse"
    max_tokens: int = Field(default=64, ge=4, le=8192)
    # Of each split; a stratified share, for a try.
    max_rows: int | None = Field(default=None, ge=8)

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        given = [n for n in ("validation", "test", "clean_holdout") if getattr(self, n)]
        if self.train is None and given:
            raise ValueError(f"{', '.join(given)} given without train; name the training file too")
        return self


class EvolutionSettings(Settings):
    """Who lives and who breeds."""

    population: int = Field(default=8, ge=1, le=100_000)
    generations: int = Field(default=3, ge=1, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    crossover_rate: float = Field(default=0.7, ge=0, le=1)
    mutation_rate: float = Field(default=0.3, ge=0, le=1)
    tournament_size: int = Field(default=2, ge=1)
    promote_by: str = "rank"
    warm_start: bool = True


class TrainingSettings(Settings):
    """How a pack is trained. The same for every genome, so that comparisons are paired."""

    batch_size: int = Field(default=8, ge=1, le=65_536)
    clip_norm: float | None = Field(default=1.0, gt=0)
    pack_size: int = Field(default=8, ge=1, le=1024)
    memory_budget_gb: float = Field(default=4.0, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(default=None, ge=1)
    prefix_cache: bool = True
    evaluation_batch: int = Field(default=32, ge=1)
    attack_rows: int = Field(default=24, ge=0)
    bootstrap_draws: int = Field(default=1000, ge=0)
    evaluations_per_stage: int = Field(default=4, ge=1, le=1000)
    patience: int | None = Field(default=2, ge=1)


class HyperbandSettings(Settings):
    """The stages a genome goes through and what happens between them."""

    enable_hyperband: bool = True
    training_stages: tuple[TrainingStage, ...] = Field(default=DEFAULT_STAGES, min_length=1)
    grow_rank_at: str | None = "S2_serious"
    grow_below_rank: int = Field(default=16, ge=1)
    cross_modal_proxy: bool = True
    naive_epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_known_stages(cls, data: Any) -> Any:
        """A stage that bears a default stage's name gets that stage's gates where it sets none."""
        if not isinstance(data, Mapping) or not isinstance(data.get("training_stages"), list):
            return data
        known = {stage.name: stage for stage in DEFAULT_STAGES}
        gates = ("min_auroc", "max_grad_norm", "stop_if_loss_rises")
        filled = []
        for stage in data["training_stages"]:
            name = stage.get("name") if isinstance(stage, Mapping) else None
            if isinstance(name, str) and name in known:
                stage = {**{g: getattr(known[name], g) for g in gates}, **stage}
            filled.append(stage)
        return {**data, "training_stages": filled}

    @model_validator(mode="after")
    def _check(self) -> HyperbandSettings:
        names = [stage.name for stage in self.training_stages]
        if len(set(names)) < len(names):
            raise ValueError(f"training_stages: names must differ, got {', '.join(names)}")
        shares = [stage.data_percentage for stage in self.training_stages]
        if shares != sorted(shares):
            raise ValueError(
                "training_stages: data_percentage must not shrink from stage to stage "
                f"(subsets are nested), got {shares}"
            )
        return self

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """The stages in force: the last one alone when Hyperband is off."""
        return self.training_stages if self.enable_hyperband else self.training_stages[-1:]

    @property
    def full_epochs(self) -> float:
        """Epochs of naive full training: those of the last stage unless set."""
        return self.naive_epochs or self.training_stages[-1].epoch_budget


class Config(Settings):
    """Everything a run depends on."""

    base_model: str = "all-minilm-l6-v2"
    vision_tower: str | None = "efficientnet-lite0"
    image_tokens: int = Field(default=1, ge=1, le=64)
    objectives: tuple[str, ...] = Field(default=tuple(OBJECTIVES), min_length=1)
    data: DataSettings = DataSettings()
    space: dict[str, Gene] = Field(default=DEFAULT_SPACE, min_length=1)
    evolution: EvolutionSettings = EvolutionSettings()
    training: TrainingSettings = TrainingSettings()
    hyperband: HyperbandSettings = Field(
        default=HyperbandSettings(),
        validation_alias=AliasChoices("hyperband", "hyperband_config"),
    )

    @model_validator(mode="after")
    def _check(self) -> Config:
        unknown = [name for name in self.objectives if name not in OBJECTIVES and ":" not in name]
        if unknown:
            raise ValueError(
                f"objectives: {', '.join(map(repr, unknown))} not known; "
                f"choose among {', '.join(OBJECTIVES)} or name your own as 'module:function'"
            )
        promote = self.evolution.promote_by
        if promote != "rank" and promote not in self.objectives:
            raise ValueError(
                f"evolution.promote_by must be 'rank' or one of the objectives, got {promote!r}"
            )
        return self


def load_config(
    source: Config | Mapping[str, Any] | str | Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """Read settings from a mapping, a YAML file or None (the default job).

    Args:
        source: relative data paths of a YAML file are taken from its own folder.
        overrides: section -> key -> value, laid over `source` before it is checked.

    Raises:
        ConfigError: with every problem found, each naming key, rule, value and nearest key.
    """
    if isinstance(source, Config) and not overrides:
        return source
    if isinstance(source, Config):
        source = source.model_dump()
    name, data = ("configuration", source) if isinstance(source, Mapping) else _read_yaml(source)
    try:
        return Config.model_validate(_lay_over(data, overrides or {}))
    except ValidationError as error:
        raise ConfigError(name, [_explain(item) for item in error.errors()]) from None


def _lay_over(
    data: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    merged = dict(data)
    for section, values in overrides.items():
        known = {} if merged.get(section) is None else merged[section]
        if values and isinstance(known, Mapping):  # what is no mapping, validation explains
            merged[section] = {**known, **values}
    return merged


def _anchor(data: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The settings with the data files' relative paths taken from `folder`, made absolute so
    that a run can be resumed from anywhere."""
    section = data.get("data")
    if not isinstance(section, Mapping):
        return data
    files = ("train", "validation", "test", "clean_holdout")
    given = {name: section[name] for name in files if isinstance(section.get(name), str)}
    found = {name: folder.absolute() / Path(path).expanduser() for name, path in given.items()}
    return {**data, "data": {**section, **found}}


def _read_yaml(source: str | Path | None) -> tuple[str, Mapping[str, Any]]:
    if source is None:
        return "configuration", {}
    path = Path(source)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(str(path), ["no such file; `coralx init DIR` writes one"]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(str(path), [f"cannot be read as YAML: {error}"]) from None
    if data is None:
        return str(path), {}
    if not isinstance(data, Mapping):
        found = type(data).__name__
        raise ConfigError(str(path), [f"must hold a mapping of settings, got {found}"])
    return str(path), _anchor(data, path.parent)


def _explain(item: Any) -> str:
    """One pydantic error as `key: rule, got value`; unknown keys get the nearest known one."""
    place = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(item["loc"][-1]), _known_keys(), n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"{place}: unknown key{hint}"
    message = item["msg"].removeprefix("Value error, ")
    value = item.get("input")
    shown = "" if isinstance(value, Mapping | list | tuple) else f", got {value!r}"
    return f"{place}: {message}{shown if item['type'] != 'value_error' else ''}"


def _known_keys() -> list[str]:
    sections = (
        Config,
        DataSettings,
        EvolutionSettings,
        TrainingSettings,
        HyperbandSettings,
        TrainingStage,
        Choice,
        Float,
    )
    return sorted({"hyperband_config"} | {key for part in sections for key in part.model_fields})
