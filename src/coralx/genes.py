"""The genes of a search space: their kinds, the default ones, and what values each may have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from coralx.problems import describe_value, explain, nearest
from coralx.records import GeneValue, Genome, LoRAConfig, Number, Whole

TRAINING_GENES = ("learning_rate", "weight_decay", "warmup")  # the others are of the adapter


class Settings(BaseModel):
    """Immutable section of the configuration that refuses unknown keys.

    Rules between keys are validators of the later key, not of the section: those of a section
    are only checked where all its keys are in order, and a user wants every problem at once.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class Choice(Settings):
    """One of a list of values, each as likely."""

    kind: Literal["choice"] = "choice"
    values: tuple[GeneValue, ...] = Field(min_length=1)


class Integer(Settings):
    """A whole number from low to high, both included."""

    kind: Literal["integer"] = "integer"
    low: Whole = Field(ge=-(2**53), le=2**53)
    high: Whole = Field(ge=-(2**53), le=2**53)

    @field_validator("high")
    @classmethod
    def _check_order(cls, high: int, info: ValidationInfo) -> int:
        _check_not_below(high, info)
        return high


class Float(Settings):
    """A number from low to high, uniform on a linear or logarithmic scale."""

    kind: Literal["float"] = "float"
    low: Number
    high: Number
    log: bool = False

    @field_validator("high")
    @classmethod
    def _check_order(cls, high: float, info: ValidationInfo) -> float:
        _check_not_below(high, info)
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


def check_gene(name: str, gene: Gene) -> list[str]:
    """Whether all values of a gene are such as its field can take: a problem per value that is
    not. A gene that CoralX does not read may have any, but not a name all but that of a known
    one, which is a slip that would cost a night."""
    known = (*LoRAConfig.model_fields, *TRAINING_GENES)
    if name not in known:
        close = nearest(name, known, cutoff=0.8)
        return [f"no gene of CoralX; did you mean {close!r}? Else choose another name"] * bool(
            close
        )
    values = gene.values if isinstance(gene, Choice) else (gene.low, gene.high)
    record = Genome if name in TRAINING_GENES else LoRAConfig
    problems = []
    for value in values:
        alone = name == "target_modules" and isinstance(value, str)
        try:
            record.model_validate({name: (value,) if alone else value}, strict=True)
        except ValidationError as error:
            rules = dict.fromkeys(rule for line in explain(error, {}) for rule in [_bare(line)])
            problems.append(f"{' or '.join(rules)}, got {describe_value(value)}; change its values")
    return list(dict.fromkeys(problems))


def _bare(line: str) -> str:
    """The rule of a problem, without its key and the value found."""
    return line.partition(": ")[2].rpartition(", got ")[0]
