"""The genes of a search space: their kinds, the default ones, and what values each may have."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from coralx.records import TRAINING_GENES, GeneValue, Genome, LoRAConfig, Number, Whole
from coralx.settings.problems import describe_value, explain, nearest
from coralx.wording import GENE_SIGNS


class Settings(BaseModel):
    """Immutable section of the configuration that refuses unknown keys.

    Rules between keys are validators of the later key, not of the section: those of a section
    are only checked where all its keys are in order, and a user wants every problem at once.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class GeneSettings(Settings):
    """What genes of every kind can have.

    `when` makes a gene conditional: it counts only while every gene named there has one of the
    values listed. Otherwise it rests at the default of its field, or at None for a user's own.
    """

    when: dict[str, Annotated[tuple[GeneValue, ...], Field(min_length=1)]] = {}


class Choice(GeneSettings):
    """One of a list of values, each as likely."""

    kind: Literal["choice"] = "choice"
    values: tuple[GeneValue, ...] = Field(min_length=1)

    @field_validator("values")
    @classmethod
    def _check_kinds(cls, values: tuple[GeneValue, ...]) -> tuple[GeneValue, ...]:
        """0, 0.0 and false are equal, so that one would pass for another; ids tell them apart."""
        known: dict[GeneValue, GeneValue] = {}
        for value in values:
            twin = known.setdefault(value, value)
            if type(twin) is not type(value):
                raise ValueError(
                    f"must not be equal under two names, got {twin!r} and {value!r}; keep one"
                )
        return tuple(dict.fromkeys(values))


class Integer(GeneSettings):
    """A whole number from low to high, both included."""

    kind: Literal["integer"] = "integer"
    low: Whole = Field(ge=-(2**53), le=2**53)
    high: Whole = Field(ge=-(2**53), le=2**53)

    @field_validator("high")
    @classmethod
    def _check_order(cls, high: int, info: ValidationInfo) -> int:
        _check_not_below(high, info)
        return high


class Float(GeneSettings):
    """A number from low to high, uniform on a linear or logarithmic scale."""

    kind: Literal["float"] = "float"
    low: Number
    high: Number
    log: bool = False

    @field_validator("high")
    @classmethod
    def _check_order(cls, high: float, info: ValidationInfo) -> float:
        _check_not_below(high, info)
        low = info.data.get("low")
        if low is not None and not math.isfinite(high - low):
            raise ValueError(f"high - low must be finite, got {low} to {high}; narrow the range")
        return high

    @field_validator("log")
    @classmethod
    def _check_log(cls, log: bool, info: ValidationInfo) -> bool:
        low = info.data.get("low")
        if log and low is not None and low <= 0:
            raise ValueError(f"a log scale needs low > 0, got {low}")
        return log


def _check_not_below(high: float, info: ValidationInfo) -> None:
    low = info.data.get("low")
    if low is not None and low > high:
        raise ValueError(f"low must not be above high, got {low} > {high}")


Gene = Annotated[Choice | Integer | Float, Field(discriminator="kind")]


def _list_modules(space: dict[str, Gene]) -> dict[str, Gene]:
    """The space with each module's name that stands alone as a list of one, as genomes have it."""

    def listed(values: tuple[GeneValue, ...]) -> tuple[GeneValue, ...]:
        return tuple(dict.fromkeys((v,) if isinstance(v, str) else v for v in values))

    found = {}
    for name, gene in space.items():
        if name == "target_modules" and isinstance(gene, Choice):
            gene = gene.model_copy(update={"values": listed(gene.values)})
        if modules := gene.when.get("target_modules"):
            when = {**gene.when, "target_modules": listed(modules)}
            gene = gene.model_copy(update={"when": when})
        found[name] = gene
    return found


SearchSpace = Annotated[dict[str, Gene], AfterValidator(_list_modules)]

# Shaped by the tuned-LoRA literature: Biderman et al. 2024, "LoRA Learns Less and Forgets Less"
# (arXiv:2405.09673); Schulman et al. 2025, "LoRA Without Regret" (Thinking Machines Lab); Dettmers
# et al. 2023, QLoRA (arXiv:2305.14314). Learning rate matters most, then which layers are adapted,
# then rank. All three adapt every linear layer; batches stay small (`training.batch_size`), as LoRA
# bears large ones less well than full fine-tuning does (Schulman).
DEFAULT_SPACE: dict[str, Gene] = {
    # Capacity: low ranks learn small data as well as high ones (Schulman), and with all linear
    # layers adapted rank hardly matters (Dettmers).
    "r": Choice(values=(2, 4, 8, 16)),
    "alpha": Choice(values=(8, 16, 32)),
    "dropout": Choice(values=(0.0, 0.05, 0.1)),  # 0.05 helps small models (Dettmers)
    # Attention alone lags behind the MLP and behind all (Schulman, Biderman); kept as it is cheap.
    "target_modules": Choice(
        values=(
            ("query", "value"),
            ("query", "key", "value", "output"),
            ("up", "down"),
            ("all-linear",),
        )
    ),
    "layers": Choice(values=(1, 2, 3)),
    # About ten times that of full fine-tuning (Schulman, Biderman), which is 2e-5 to 5e-5 for
    # encoders (Devlin et al. 2019), and upwards: small adapters bear more. Above 4e-3 runs diverge.
    "learning_rate": Float(low=2e-4, high=4e-3, log=True),
    "weight_decay": Choice(values=(0.0, 0.01)),
    "use_rslora": Choice(values=(False, True)),  # Kalajdzievski 2023, arXiv:2312.03732
}


KNOWN = (*LoRAConfig.model_fields, *TRAINING_GENES)  # genes that CoralX reads
# What they are called elsewhere (by PEFT, by the trainer of transformers, in CoralX's own reports).
OTHER_NAMES = {
    "rank": "r",
    "lora_r": "r",
    "lora_rank": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "dropout_rate": "dropout",
    "layers_to_transform": "layers",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    **{sign: name for name, sign in GENE_SIGNS.items()},
}


def check_gene(name: str, gene: Gene) -> list[str]:
    """Whether all values of a gene are such as its field can take: a problem per value that is
    not. A gene of your own may have any values, but its name must not be a near miss of a known
    gene's: that is most likely a typo, and the run would search in vain."""
    if name not in KNOWN:
        close = _near_miss(name)
        return [_mistaken(close)] if close else []
    values = gene.values if isinstance(gene, Choice) else (gene.low, gene.high)
    record = Genome if name in TRAINING_GENES else LoRAConfig
    problems = []
    for value in values:
        try:
            record.model_validate({name: value}, strict=True)
        except ValidationError as error:
            rules = dict.fromkeys(map(_bare, explain(error, {})))
            problems.append(f"{' or '.join(rules)}, got {describe_value(value)}; change its values")
    return list(dict.fromkeys(problems))


def check_own_genes(space: Mapping[str, object], hook: object) -> list[str]:
    """Whether genes of the user's own, of a space as written or as checked, can be told from
    CoralX's and have an effect: a problem per gene that does not. One that decides whether another
    gene counts has one; else `training.hook` must read it. Those that `check_gene` refuses are left
    to it."""
    deciders = {name for gene in space.values() for name in _read_conditions(gene)}
    problems = []
    for name in space:
        if not isinstance(name, str) or name in KNOWN or _near_miss(name):
            continue
        if meant := OTHER_NAMES.get(name):
            problems.append(f".{name}: {_mistaken(meant)}")
        elif hook is None and name not in deciders:
            advice = "name the function that does as training.hook"
            if close := nearest(name, (*KNOWN, *OTHER_NAMES)):
                advice = f"did you mean {OTHER_NAMES.get(close, close)!r}? Else {advice}"
            rule = "no gene of CoralX, and without training.hook nothing reads it"
            problems.append(f".{name}: {rule}; {advice}")
    return problems


def _near_miss(name: str) -> str | None:
    return nearest(name, KNOWN, cutoff=0.8)


def _mistaken(meant: str) -> str:
    return f"no gene of CoralX; did you mean {meant!r}? Else choose another name"


def _read_conditions(gene: object) -> Collection[str]:
    """The names in a gene's `when`, of a gene as written or as checked."""
    when = gene.get("when") if isinstance(gene, Mapping) else getattr(gene, "when", None)
    return when if isinstance(when, Mapping) else ()


def check_conditions(space: Mapping[str, Gene]) -> list[str]:
    """Whether every `when` of a space can be decided: a problem per gene or value that cannot."""
    problems = []
    for name, gene in space.items():
        for other, wanted in gene.when.items():
            decider, place = space.get(other), f".{name}.when.{other}"
            if not isinstance(decider, Choice):
                close = nearest(other, (n for n in space if isinstance(space[n], Choice)))
                hint = f"; did you mean {close!r}?" if close else "; add it, or name another"
                rule = "must be a gene of the space that is a choice"
                problems.append(f"{place}: {rule}, got {other!r}{hint}")
                continue
            strange = [v for v in wanted if v not in decider.values]
            problems += [
                f"{place}: must list values of {other}, got {describe_value(value)}; "
                f"choose among {', '.join(map(describe_value, decider.values))}"
                for value in strange
            ]
    try:
        TopologicalSorter({name: list(gene.when) for name, gene in space.items()}).prepare()
    except CycleError as error:
        ring = " -> ".join(error.args[1])
        problems.append(f"conditions must not go round in a circle, got {ring}; drop one `when`")
    return problems


def _bare(line: str) -> str:
    """The rule of a problem, without its key and the value found."""
    return line.partition(": ")[2].rpartition(", got ")[0]
