"""Records: equal content gives equal ids, JSON and back loses nothing, bad values are refused."""

import copy
import json
import math
import pickle

import pytest
from pydantic import ValidationError

from coralx import records
from coralx.records import (
    Genome,
    Interval,
    Job,
    LoRAConfig,
    Progress,
    Start,
    TrainingStage,
    jsonable,
)


def test_scale_of_plain_and_rank_stabilised_lora() -> None:
    assert LoRAConfig(r=8, alpha=16).scale == 2.0
    assert LoRAConfig(r=16, alpha=16, use_rslora=True).scale == 4.0


def test_a_gene_that_is_added_later_leaves_the_ids_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else no journal of before could be gone on with: its children would have other ids."""

    class LaterLoRA(LoRAConfig):
        init: str = "gaussian"

    class Later(Genome):
        momentum: float = 0.9

    old, plain = Genome(learning_rate=2e-3, extra={"mine": 1}), Genome()
    monkeypatch.setattr(records, "TRAINING_GENES", (*records.TRAINING_GENES, "momentum"))
    same = Later(learning_rate=2e-3, extra={"mine": 1})
    assert same.genes()["momentum"] == 0.9
    assert same.id == old.id
    assert Later(lora_cfg=LaterLoRA()).id == plain.id
    others = Later(momentum=0.5), Later(lora_cfg=LaterLoRA(init="svd"))
    assert len({plain.id, *(genome.id for genome in others)}) == 3


def test_ids_are_those_of_every_version() -> None:
    assert Genome().id == "ec2fb8c08caa"
    lora = LoRAConfig(r=4, alpha=8, dropout=0.1, target_modules=("all-linear",), layers=2)
    own = {"weight_decay": 0.01, "warmup": 0.0, "extra": {"mine": 1}}
    assert Genome(lora_cfg=lora, parents=("a", "b"), generation=3, **own).id == "21c1db422f2a"


def test_id_is_a_hash_of_genes_and_lineage() -> None:
    one = Genome(learning_rate=1e-3)
    assert one.id == Genome(learning_rate=1e-3).id
    others = [
        Genome(learning_rate=2e-3),
        Genome(learning_rate=1e-3, generation=1),
        Genome(learning_rate=1e-3, parents=("a",)),
        Genome(learning_rate=1e-3, lora_cfg=LoRAConfig(r=4)),
        Genome(learning_rate=1e-3, extra={"mine": 1}),
    ]
    assert len({one.id, *(other.id for other in others)}) == 6
    assert Genome(learning_rate=1e-3, fitness={"task_skill": 0.9}).id == one.id


def test_json_and_back_is_equal() -> None:
    genome = Genome(
        lora_cfg=LoRAConfig(target_modules=("query", "up"), layers=2),
        extra={"order": ("a", "b"), "flag": True},
        parents=("p", "q"),
    )
    assert Genome.model_validate(json.loads(json.dumps(jsonable(genome)))) == genome


def test_a_job_names_the_results_of_its_genomes() -> None:
    stage = TrainingStage(name="S", epoch_budget=1, data_percentage=100, survival_rate=1)
    genomes = Genome(id="a"), Genome(id="b")
    starts = Start(), Start(kind="inherit", checkpoint="c")
    job = Job(id="j", generation=2, stage=stage, stage_index=1, genomes=genomes, starts=starts)
    result = job.result(1, objectives={"task_skill": 0.7})
    assert (result.job, result.generation, result.stage, result.stage_index) == ("j", 2, "S", 1)
    assert (result.genome, result.start, result.lora_cfg) == (genomes[1], starts[1], LoRAConfig())
    assert result.objectives == {"task_skill": 0.7}
    assert job.result(0, lora_cfg=LoRAConfig(r=2)).lora_cfg.r == 2


def test_not_a_number_survives_json() -> None:
    point = Interval(value=math.nan, low=-math.inf, high=math.inf)
    back = Interval.model_validate(json.loads(json.dumps(jsonable(point))))
    assert math.isnan(back.value)
    assert (back.low, back.high) == (-math.inf, math.inf)
    text = Interval.model_validate_json(point.model_dump_json())
    assert math.isnan(text.value)
    assert (text.low, text.high) == (-math.inf, math.inf)


def test_a_gene_of_ones_own_cannot_hide_one_of_the_adapters() -> None:
    for name in ("r", "layers", "learning_rate"):
        with pytest.raises(ValidationError, match=f"CoralX does not read, got {name}; set"):
            Genome(extra={name: 99, "mine": 1})


@pytest.mark.parametrize(
    "bad",
    [
        {"r": 0},
        {"r": True},
        {"alpha": 0},
        {"dropout": 1.0},
        {"target_modules": ()},
        {"layers": 0},
        {"layers": True},
        {"rank": 8},
    ],
)
def test_illegal_adapters_cannot_be_made(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LoRAConfig.model_validate(bad)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Genome().learning_rate = 1.0  # type: ignore[misc]
    assert Progress.model_config["frozen"]


def test_equal_genomes_are_one_member_of_a_set() -> None:
    one, same = (Genome(extra={"mine": 1}) for _ in range(2))
    assert one == same
    assert {one, same, Genome(extra={"mine": 2})} == {one, Genome(extra={"mine": 2})}


def test_genes_cannot_be_changed_behind_the_id() -> None:
    genome, plain = Genome(extra={"mine": 1}), Genome()
    for change in (
        lambda: genome.extra.update(mine=2),
        lambda: genome.extra.pop("mine"),
        lambda: genome.extra.clear(),
        lambda: genome.extra.setdefault("yours", 2),
        lambda: genome.extra.__setitem__("mine", 2),
        lambda: genome.extra.__delitem__("mine"),
        lambda: genome.extra.__ior__({"mine": 2}),
        lambda: genome.extra.popitem(),
        lambda: plain.extra.__setitem__("mine", 2),
    ):
        with pytest.raises(TypeError, match="make another genome"):
            change()
    assert genome.extra == {"mine": 1}
    for twin in (pickle.loads(pickle.dumps(genome)), copy.deepcopy(genome)):  # noqa: S301
        assert twin == genome
        with pytest.raises(TypeError, match="make another genome"):
            twin.extra["mine"] = 2


def test_a_copy_with_other_genes_is_another_genome() -> None:
    for one in (Genome(), Genome(id="mine")):
        for change in (
            {"learning_rate": 5e-3},
            {"lora_cfg": LoRAConfig(r=2)},
            {"extra": {"mine": 1}},
            {"parents": ("a",)},
            {"generation": 2},
        ):
            copied = one.model_copy(update=change)
            assert copied == Genome.model_validate(change)
            assert one.model_copy(update={**change, "id": "b"}).id == "b"
        assert one.model_copy() == one
        assert one.model_copy(update={"fitness": {"task_skill": 0.9}}).id == one.id
        assert one.model_copy(update={"learning_rate": one.learning_rate}) == one


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": "fast"},
        {"learning_rate": math.nan},
        {"id": "../out"},
        {"lora_cfg": LoRAConfig().model_copy(update={"r": 0})},
        {"rate": 1.0},
    ],
)
def test_a_copy_that_breaks_a_rule_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Genome().model_copy(update=change)


@pytest.mark.parametrize(
    "name", ["../../out", "..", ".hidden", "a/b", "a\\b", "a b", "a\n", "x" * 65]
)
def test_an_id_that_is_no_name_of_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="id"):
        Genome(id=name)


def test_short_names_and_generated_ids_are_ids() -> None:
    for name in ("a", "007", "mine-2.b_c", Genome().id):
        assert Genome.model_validate({"id": name}).id == name
