"""The records that cross a border: between search and training, process and journal.

All are immutable and, but for `ModelShape`, which nothing writes down, turn into JSON and back
without loss (`record.model_dump(mode="json")`, `Record.model_validate(data)`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

# Genes beside LoRAConfig's. A new one, here or there, must not be added to ID_GENES: it then counts
# for an id only where it differs from its default, so that genomes in old journals keep theirs.
TRAINING_GENES = ("learning_rate", "weight_decay", "warmup")
ID_GENES = (  # of these every id is made
    *("r", "alpha", "dropout", "target_modules", "layers", "use_rslora"),
    *("learning_rate", "weight_decay", "warmup"),
)

GeneValue = bool | int | float | str | tuple[str, ...] | None


def _refuse_truth(value: Any) -> Any:
    """YAML reads yes, no, on and off as truths; as numbers they would pass for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(
            f"must be a number, got {value} (what YAML makes of yes and on, no and off)"
        )
    return value


# Numbers of settings: YAML's yes and no must not pass for 1 and 0.
Whole = Annotated[int, BeforeValidator(_refuse_truth)]
Number = Annotated[float, AllowInfNan(False), BeforeValidator(_refuse_truth)]


class Record(BaseModel):
    """Immutable, strict about unknown fields, comparable by value."""

    # NaN and infinity stay what they are in JSON too: an objective may be no number.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class _Fixed(dict[str, GeneValue]):
    """Genes that nobody can change in place: an id is a hash of them. A dict all the same, which
    workers can be sent and JSON can be made of."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the genes of a genome cannot be changed; make another genome of them")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[_Fixed], tuple[dict[str, GeneValue]]]:
        return _Fixed, (dict(self),)  # made whole; by default it would be filled in place


class LoRAConfig(Record):
    """One LoRA adapter (Hu et al. 2021, arXiv:2106.09685): dW = scale x B A.

    `target_modules` name linear layers by role (query, key, value, output, up, down; in a decoder
    gate, too), by the suffix of their module path (`q_proj`), or all of them (`all-linear`). In a
    ModernBERT query, key and value are one linear (`qkv`), as are gate and up: each name is both.
    `layers` adapts only the last k blocks of the base, or "all" of them.
    """

    r: Whole = Field(default=8, ge=1, le=1024)
    alpha: Number = Field(default=16.0, gt=0)
    dropout: Number = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(default=("query", "value"), min_length=1)
    layers: Whole | Literal["all"] = "all"
    use_rslora: bool = False

    @field_validator("target_modules", mode="before")
    @classmethod
    def _list_one(cls, names: Any) -> Any:
        """One name alone stands for a list of one."""
        return (names,) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _check_layers(self) -> LoRAConfig:
        if self.layers != "all" and self.layers < 1:
            raise ValueError(f"layers must be 'all' or at least 1, got {self.layers}")
        return self

    @property
    def scale(self) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / math.sqrt(self.r) if self.use_rslora else self.alpha / self.r


class Genome(Record):
    """A LoRA configuration with its training hyper-parameters and its lineage.

    `parents` lists ids, the better parent first: its checkpoint is what a child inherits.
    `warmup` is the share of one epoch over which the learning rate rises to `learning_rate`.
    `extra` holds genes of the space that CoralX itself does not read. The id is a hash of genes
    and lineage unless one is given, so equal runs give equal ids. It names folders, so one that is
    given may hold letters, digits, `_`, `.` and `-` alone and must not begin with a dot.
    `fitness` is the caller's own, to carry figures along: CoralX neither sets nor reads it, and no
    id depends on it. What CoralX measures is in the `objectives` of each result.
    """

    id: str = Field(default="", max_length=64, pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*)?$")
    lora_cfg: LoRAConfig = LoRAConfig()
    learning_rate: Number = Field(default=1e-3, gt=0)
    weight_decay: Number = Field(default=0.0, ge=0)
    warmup: Number = Field(default=0.02, ge=0, le=1)
    extra: Annotated[dict[str, GeneValue], AfterValidator(_Fixed)] = Field(default_factory=_Fixed)
    parents: tuple[str, ...] = ()
    generation: int = Field(default=0, ge=0)
    fitness: dict[str, float] | None = None

    def __hash__(self) -> int:
        return hash(self.id)  # the same for equal genomes, whose `extra` has no hash

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, GeneValue]) -> dict[str, GeneValue]:
        if known := sorted(extra.keys() & {*LoRAConfig.model_fields, *TRAINING_GENES}):
            raise ValueError(
                f"holds only genes that CoralX does not read, got {', '.join(known)}; set those as "
                "fields of the genome or its lora_cfg"
            )
        return extra

    @model_validator(mode="after")
    def _name(self) -> Genome:
        if not self.id:
            object.__setattr__(self, "id", self._digest())
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Genome:
        """A copy to which all rules apply, deep in any case. Where genes or lineage are others its
        id is made anew, unless one is given.

        Raises:
            pydantic.ValidationError: what is updated breaks a rule.
        """
        given = {
            name: value.model_dump(warnings=False) if isinstance(value, BaseModel) else value
            for name, value in (update or {}).items()
        }
        copy = Genome.model_validate({**self.model_dump(), **given})
        if "id" in given or copy._digest() == self._digest():
            return copy
        return Genome.model_validate({**copy.model_dump(), "id": ""})

    def genes(self) -> dict[str, GeneValue]:
        """Every gene by its name in the search space."""
        return {
            **dict(self.lora_cfg),
            **{name: getattr(self, name) for name in TRAINING_GENES},
            **self.extra,
        }

    def _digest(self) -> str:
        fields = {**type(self.lora_cfg).model_fields, **type(self).model_fields}
        genes = {
            name: value
            for name, value in self.genes().items()
            if name in ID_GENES or name in self.extra or value != fields[name].default
        }
        facts = {"genes": genes, "parents": self.parents, "generation": self.generation}
        text = json.dumps(facts, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class TrainingStage(Record):
    """One rung: how much a genome is trained, on how many rows, and who goes on.

    `epoch_budget` counts epochs over the stage's own subset of `data_percentage` per cent of the
    training rows; `survival_rate` is the share of the stage's genomes that goes on to the next.
    `min_auroc` and `max_grad_norm` are gates; None means that the gate is off.
    """

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    epoch_budget: Number = Field(gt=0, le=1000)
    data_percentage: Number = Field(gt=0, le=100)
    survival_rate: Number = Field(gt=0, le=1)
    min_auroc: Number | None = Field(default=None, ge=0, le=1)
    max_grad_norm: Number | None = Field(default=None, gt=0)
    stop_if_loss_rises: bool = False

    @property
    def selects(self) -> bool:
        """Whether what it measures can leave anybody behind."""
        return self.survival_rate < 1 or self.min_auroc is not None


class Start(Record):
    """Where a genome's weights come from when a job begins.

    fresh: new adapters. continue: its own checkpoint of the stage before, optimiser moments
    included. inherit: another genome's checkpoint, carried over in dW space. merge: the better
    parent's `checkpoint` and the other's, `second`, made one in dW space. `grow_to` is the rank
    to grow to before the first step, or None. `steps` counts those of its own earlier stages, even
    where the checkpoint holds the weights of fewer.
    """

    kind: Literal["fresh", "continue", "inherit", "merge"] = "fresh"
    checkpoint: str | None = None
    second: str | None = None
    grow_to: int | None = None
    steps: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The checkpoints that it needs."""
        return tuple(name for name in (self.checkpoint, self.second) if name)


class Job(Record):
    """One pack of genomes to train for one stage. `starts` is in the order of `genomes`."""

    id: str
    generation: int
    stage: TrainingStage
    stage_index: int
    genomes: tuple[Genome, ...] = Field(min_length=1)
    starts: tuple[Start, ...]
    text_only: bool = False

    def part(self, ids: Collection[str]) -> Job:
        """The job with these of its genomes alone, in its own order."""
        pairs = zip(self.genomes, self.starts, strict=True)
        kept = [(genome, start) for genome, start in pairs if genome.id in ids]
        genomes, starts = zip(*kept, strict=True)
        return self.model_copy(update={"genomes": genomes, "starts": starts})

    def result(self, place: int, **measured: Any) -> TrainingResult:
        """The result of its genome at this place with what was measured of it; `lora_cfg` is the
        genome's own unless it is given."""
        genome = self.genomes[place]
        return TrainingResult(
            job=self.id,
            genome=genome,
            generation=self.generation,
            stage=self.stage.name,
            stage_index=self.stage_index,
            start=self.starts[place],
            **{"lora_cfg": genome.lora_cfg, **measured},
        )


class Stop(Record):
    """Why a genome was stopped: the gate, the value measured and the limit it broke."""

    gate: Literal["non_finite", "gradient_norm", "loss_rising", "auroc", "out_of_memory"]
    value: float | None
    limit: float | None
    reason: str


class CurvePoint(Record):
    """One point of a learning curve; `step` counts the genome's own steps over all stages."""

    step: int
    loss: float
    auroc: float | None = None


class Cost(Record):
    """What was spent on one genome in one stage. A pack's seconds are shared out evenly.

    `planned_steps` is the stage's unrounded budget, as `coralx plan` has it: `steps` are whole, and
    of the rows a stage has a stratified share in whole batches, so it can train a little more.
    `tokens` counts tokens that carry meaning, `computed_tokens` those that went through the model,
    padding included. `flops` counts what was computed for this genome, forward and backward, in
    the blocks' linear layers and its adapters: see `coralx.flops`. `lost_steps` are those of
    `steps` that left nothing: of a pack that broke off and was trained anew, in parts.
    """

    steps: int = 0
    lost_steps: int = 0
    planned_steps: float = 0.0
    tokens: int = 0
    computed_tokens: int = 0
    flops: float = 0.0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    busy_share: float = 0.0
    peak_memory: int = 0

    @property
    def kept_steps(self) -> int:
        """The steps that the genome's weights have behind them."""
        return self.steps - self.lost_steps


class TrainingResult(Record):
    """What one genome did in one stage: objectives measured, cost paid, weights left behind.

    `lora_cfg` is the adapter as trained: its rank may have grown beyond the gene. `details` holds
    figures beside the objectives, such as `auroc/task/<name>`. `checkpoint` is the id of the
    weights left, None for a genome stopped before it had any worth keeping. `pack` lists the
    genomes that trained together where that is not the whole job: its pack was parted for lack of
    memory, or trained again without one that broke down.
    """

    job: str
    genome: Genome
    generation: int
    stage: str
    stage_index: int
    lora_cfg: LoRAConfig
    objectives: dict[str, float] = Field(default_factory=dict)
    details: dict[str, float] = Field(default_factory=dict)
    stopped: Stop | None = None
    left_early: bool = False
    start: Start = Start()
    checkpoint: str | None = None
    pack: tuple[str, ...] | None = None
    curve: tuple[CurvePoint, ...] = ()
    cost: Cost = Cost()

    @property
    def auroc(self) -> float | None:
        """On validation rows: `details["auroc"]` where training gives it, else task_skill.

        The two differ under the cross-modal proxy, whose discount on task_skill is for ranking
        alone.
        """
        return self.details.get("auroc", self.objectives.get("task_skill"))


class Generation(Record):
    """A closed generation: who survived, the front so far and how diverse the population is.

    `front_stages` are the stages that left the front's members, in the same order, `hypervolume` is
    over their validation objectives, `diversity` the mean pairwise gene distance (0..1).
    `first_front_share`: of the candidates that passed their stage, the share that is on the front
    of the highest stage among them.
    """

    index: int
    population: tuple[str, ...]
    front: tuple[str, ...]
    front_stages: tuple[str, ...]
    hypervolume: float
    diversity: float
    first_front_share: float

    @model_validator(mode="after")
    def _check_front(self) -> Generation:
        if len(self.front) != len(self.front_stages):
            raise ValueError("front and front_stages must be of the same length")
        return self


class Repair(Record):
    """A checkpoint that was missing or damaged and was trained again.

    `jobs` are those that it took, in order, from the last good ancestors on; `steps` and
    `seconds` what they cost, which the results' own costs leave out. `identical` says whether
    the weights are the old ones bit for bit.
    """

    checkpoint: str
    reason: str
    jobs: tuple[str, ...]
    steps: int
    seconds: float
    identical: bool


# Roles of linear layers, and the role that does their work where layers are fused.
FUSED_ROLES = {"query": "qkv", "key": "qkv", "value": "qkv", "gate": "up"}


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a transformer that its memory depends on.

    `layers` blocks of width `hidden`, MLPs of width `intermediate`; `vocab` token embeddings;
    `value_bytes` per weight and activation (4: fp32, 2: bf16); `vision` features of a picture, 0
    without pictures. `decoder`: built like llama, with a gate beside the MLP's way up and norms in
    fp32; `queries` and `keys` are as wide as `hidden` if 0, and values are as wide as keys.
    `deep_head`: the classification layer has another of width `hidden` before it, trained as well.
    `fused`: built like ModernBERT, with one linear for query, key and value and one for gate and
    way up, and a last block of which all tokens are pooled. `apart`: heads of attention that sees
    contents and distances apart, as DeBERTa's does; 0 of others. `sandwiched`: a decoder whose
    blocks norm what leaves attention and MLP as well, as Gemma's do.
    """

    layers: int
    hidden: int
    intermediate: int
    vocab: int
    value_bytes: int = 4
    vision: int = 0
    decoder: bool = False
    queries: int = 0
    keys: int = 0
    deep_head: bool = False
    fused: bool = False
    apart: int = 0
    sandwiched: bool = False


class Interval(Record):
    """A figure with the bounds of its bootstrap confidence interval."""

    value: float
    low: float
    high: float


class TestResult(Record):
    """A front member re-measured once on the held-out test split."""

    __test__ = False  # not a pytest class

    genome: str
    stage: str
    objectives: dict[str, Interval]
    details: dict[str, Interval] = Field(default_factory=dict)
    attack_threshold: float


class Progress(Record):
    """How far the job at work is; `skill` is the best AUROC seen in it so far, if any."""

    job: Job
    step: int
    steps: int
    alive: int
    skill: float | None = None


def jsonable(record: Record) -> dict[str, Any]:
    """The record as plain JSON values (tuples become lists)."""
    return record.model_dump(mode="json")
