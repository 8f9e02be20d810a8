"""YAML -> typed settings; every problem is reported at once, with the nearest known key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from coralx.errors import ConfigError, ModelError
from coralx.models import find_folder, make_absolute
from coralx.objectives import DEFAULT_OBJECTIVES, OBJECTIVES
from coralx.records import TrainingStage, Whole
from coralx.settings.file import read_settings
from coralx.settings.genes import (
    DEFAULT_SPACE,
    Choice,
    Float,
    Gene,
    Integer,
    SearchSpace,
    Settings,
    check_conditions,
    check_gene,
    check_own_genes,
)
from coralx.settings.problems import describe_value, explain
from coralx.settings.sections import (
    DataSettings,
    EvolutionSettings,
    HyperbandSettings,
    StorageSettings,
    TrainingSettings,
)

VISION_TOWERS = ("efficientnet-lite0",)
ALIAS = "hyperband_config"  # another name of the section `hyperband`
PREFIX_FOLDER = "prefix"  # of a run: frozen outputs that do not fit in memory


class Config(Settings):
    """Everything a run depends on."""

    base_model: str = Field(default="all-minilm-l6-v2", min_length=1)
    # Whether code that lies in the base model's folder may be run; only ever set by the user.
    trust_remote_code: bool = False
    vision_tower: str | None = "efficientnet-lite0"
    image_tokens: Whole = Field(default=1, ge=1, le=64)
    objectives: tuple[str, ...] = Field(default=DEFAULT_OBJECTIVES, min_length=1)
    data: DataSettings = DataSettings()
    space: SearchSpace = Field(default=DEFAULT_SPACE, min_length=1)
    evolution: EvolutionSettings = EvolutionSettings()
    training: TrainingSettings = TrainingSettings()
    storage: StorageSettings = StorageSettings()
    hyperband: HyperbandSettings = Field(
        default=HyperbandSettings(),
        validation_alias=AliasChoices("hyperband", ALIAS),
    )

    @field_validator("vision_tower")
    @classmethod
    def _check_tower(cls, name: str | None) -> str | None:
        if name is not None and name not in VISION_TOWERS:
            known = ", ".join(VISION_TOWERS)
            raise ValueError(f"{name!r} is not known; choose {known}, or null for text alone")
        return name

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        problems = [
            f"{name!r} not known; choose among {', '.join(OBJECTIVES)} or name your own as "
            "'module:function'"
            for name in names
            if name not in OBJECTIVES and not all(name.partition(":"))
        ]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"each may be named once, got {', '.join(twice)} again; keep one")
        if problems:
            raise ValueError("\n".join(problems))
        return names

    @field_validator("space")
    @classmethod
    def _check_genes(cls, space: dict[str, Gene]) -> dict[str, Gene]:
        problems = [f".{name}: {line}" for name in space for line in check_gene(name, space[name])]
        problems += check_conditions(space)
        if problems:
            raise ValueError("\n".join(problems))
        return space

    @model_validator(mode="after")
    def _check_sections(self) -> Config:
        if problems := _find_clashes(dict(self)):
            raise ValueError("\n".join(f".{problem}" for problem in problems))
        return self

    def measures_all(self, stage: TrainingStage) -> bool:
        """Whether all objectives are measured after a stage: where what it measures decides who
        goes on or whom exploit replaces, and after the last; else P1 alone."""
        last = stage.name == self.hyperband.stages[-1].name
        return last or stage.selects or self.evolution.exploit_below > 0

    def choose_tower(self, trained: bool) -> str | None:
        """The vision tower, where some training rows have pictures (`trained`).

        Raises:
            ModelError: they have, and there is nothing to read them with.
        """
        if trained and self.vision_tower is None:
            raise ModelError(
                "vision_tower: the training rows have images but vision_tower is null; "
                "name a tower, or set data.image_column: null to leave the pictures out"
            )
        return self.vision_tower if trained else None

    def unmeasured(self, pictured: bool, trained: bool = False) -> list[str]:
        """A message for each objective that was asked for and cannot be measured. The default
        `objectives` ask for cross_modal_gain alone, and only where training rows have pictures;
        `evolution.promote_by` is always asked for.

        Args:
            pictured: among the validation rows both classes have pictures that are read.
            trained: some training rows have.
        """
        reasons = self._reasons(pictured)
        asked = set(self.objectives)
        if asked == set(DEFAULT_OBJECTIVES):
            asked = {"cross_modal_gain"} if trained else set()
        told = [
            f"objectives: {name} is not measured and selects nobody: {reasons[name]}"
            for name in self.objectives
            if name in asked and name in reasons
        ]
        if len(self.hyperband.stages) == 1:
            return told  # nobody is promoted
        chosen, blind = self.evolution.promote_by, self.hyperband.text_stages
        if reason := reasons.get(chosen):
            told.append(
                f"evolution.promote_by: {chosen} is not measured, so promotion is by rank: {reason}"
            )
        elif chosen == "cross_modal_gain" and blind:
            names = " and ".join(stage.name for stage in blind)
            told.append(
                f"evolution.promote_by: {chosen} is not measured in {names} "
                "(hyperband.cross_modal_proxy), so promotion there is by rank"
            )
        return told

    def check_measured(self, pictured: bool) -> None:
        """Pass if one objective at least can be measured: a run of none would train to its end
        and select nobody. `pictured` as in `unmeasured`.

        Raises:
            ConfigError: none can.
        """
        reasons = self._reasons(pictured)
        if all(name in reasons for name in self.objectives):
            causes = "; ".join(f"{name}: {reasons[name]}" for name in self.objectives)
            rule = "one at least must be measurable, or nobody is selected"
            raise ConfigError(
                "configuration",
                [f"objectives: {rule}; got {causes}; mend that, or name another, as task_skill"],
            )

    def measurable(self, pictured: bool) -> list[str]:
        """P1 and the objectives that can be measured. `pictured` as in `unmeasured`."""
        names = dict.fromkeys(("task_skill", *self.objectives))
        return [name for name in names if name not in self._reasons(pictured)]

    def _reasons(self, pictured: bool) -> dict[str, str]:
        """Why an objective cannot be measured, of those that cannot."""
        reasons = {}
        if not pictured:
            reasons["cross_modal_gain"] = "both classes need validation rows with a picture"
        if not self.training.attack_rows:
            reasons["safety"] = "training.attack_rows is 0"
        return reasons


# The settings by the last word of their place, "" for those at the top. ALIAS stands first: of two
# names of one section the last one is told where a key is in the wrong place.
SECTIONS: dict[str, type[BaseModel]] = {
    ALIAS: HyperbandSettings,
    "": Config,
    **{
        name: field.annotation
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    },
    "training_stages": TrainingStage,
    "choice": Choice,
    "integer": Integer,
    "float": Float,
}
_MERGED = {*SECTIONS, "space"}  # of whose keys some can be overridden


def _find_clashes(data: Mapping[str, Any]) -> list[str]:
    """Broken rules between sections, of settings as written or as checked. What is of the wrong
    type is left to its section."""
    evolution = _as_dict(data.get("evolution"))
    hyperband = _as_dict(data.get("hyperband", data.get(ALIAS)))
    objectives = data.get("objectives", DEFAULT_OBJECTIVES)
    chosen, share = evolution.get("promote_by", "rank"), evolution.get("exploit_below")
    problems = []
    known = ("rank", *objectives) if isinstance(objectives, list | tuple) else (chosen,)
    if isinstance(chosen, str) and chosen not in known:
        rule = "must be 'rank' or one of the objectives"
        problems.append(f"evolution.promote_by: {rule}, got {describe_value(chosen)}")
    if hyperband.get("promotion") == "asha" and isinstance(share, int | float) and share:
        problems.append(
            "evolution.exploit_below: acts when a stage closes, which needs hyperband.promotion: "
            f"halving, got asha with {share}; set it to 0 or promote by halving"
        )
    return problems


def _find_unread(data: Mapping[str, Any]) -> list[str]:
    """Genes without effect. No rule of `Config` itself: whoever asks the search alone for genomes
    reads their genes without a hook."""
    space, hook = _as_dict(data.get("space")), _as_dict(data.get("training")).get("hook")
    return [f"space{line}" for line in check_own_genes(space, hook)]


def _as_dict(section: object) -> dict[str, Any]:
    """What a section sets, as it was written or built; nothing if it is no section."""
    return dict(section) if isinstance(section, Mapping | BaseModel) else {}


def load_config(
    source: Config | Mapping[str, Any] | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    recorded: bool = False,
) -> Config:
    """Read settings from a mapping, a YAML file or None (the default job).

    Args:
        source: relative data paths of a YAML file are taken from its own folder, and so is a base
            model that is a folder there; one of the working directory is made absolute.
        overrides: laid over `source` before it is checked: keys of a section take the place of its
            own, and any other setting takes that of the whole.
        recorded: the settings are those of a run there is: its genes may be without effect.

    Raises:
        ConfigError: with every problem found, each naming key, rule, value and nearest key.
    """
    if isinstance(source, Config):
        recorded = recorded or not overrides
        source = source.model_dump(warnings=False)  # checked again: a copy need not have been
    if not isinstance(source, Mapping | str | Path | None):
        rule = "must be a mapping of settings, the path of a YAML file, a Config or None"
        raise ConfigError("configuration", [f"{rule}, got {describe_value(source)}"])
    name, data = ("configuration", source) if isinstance(source, Mapping) else _read_yaml(source)
    data = _anchor_model(_lay_over(data, overrides or {}), Path())
    unread = [] if recorded else _find_unread(data)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems = explain(error, SECTIONS, [ALIAS])
        problems += _find_clashes(data)  # looked for by the model only if all sections are in order
        raise ConfigError(name, list(dict.fromkeys(problems + unread))) from None
    if unread:
        raise ConfigError(name, unread)
    return config


def _lay_over(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(data)
    for name, values in overrides.items():
        if name in ("hyperband", ALIAS):  # by the name that it has already
            name = next((known for known in ("hyperband", ALIAS) if known in merged), name)
        known = merged.get(name)
        if not isinstance(values, Mapping) or name not in _MERGED:
            merged[name] = values
        elif values and isinstance(known, Mapping | BaseModel | None):
            merged[name] = {**_as_dict(known), **values}  # what is no mapping, validation explains
    return merged


def _anchor(data: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The settings with the data files' relative paths taken from `folder`, made absolute so
    that a run can be resumed from anywhere."""
    section = data.get("data")
    if not isinstance(section, Mapping):
        return data
    files = ("train", "validation", "test", "clean_holdout")
    given = {name: section[name] for name in files if isinstance(section.get(name), str)}
    found = {name: folder.absolute() / _at_home(path) for name, path in given.items()}
    return {**data, "data": {**section, **found}}


def _anchor_model(data: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The settings with a base model that is a folder in `folder` made absolute, so that runs and
    their adapters find it from anywhere. What is none there may be a short name or a hub id."""
    name = data.get("base_model")
    found = find_folder(folder / _at_home(name)) if isinstance(name, str) and name else None
    return data if found is None else {**data, "base_model": str(make_absolute(found))}


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~name of nobody here: no such file, as reading it will say
        return Path(path)


def _read_yaml(source: str | Path | None) -> tuple[str, Mapping[str, Any]]:
    if source is None:
        return "configuration", {}
    path = Path(source)
    return str(path), _anchor_model(_anchor(read_settings(path), path.parent), path.parent)
