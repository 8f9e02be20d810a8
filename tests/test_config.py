"""Configuration: the seed YAML loads as it stands, and what settings come to. What is refused:
bad_input/test_configuration.py."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from coralx.config import Config, load_config
from coralx.errors import ConfigError
from coralx.objectives import OBJECTIVES
from coralx.records import TrainingStage
from coralx.settings.sections import HyperbandSettings
from coralx.wording import GENE_SIGNS

SEED = """
hyperband_config:
  enable_hyperband: true
  training_stages:
    - {name: "S0_sanity",   epoch_budget: 0.05, data_percentage: 5,   survival_rate: 1.0}
    - {name: "S1_shakeout", epoch_budget: 0.3,  data_percentage: 20,  survival_rate: 0.5}
    - {name: "S2_serious",  epoch_budget: 1.0,  data_percentage: 100, survival_rate: 0.25}
    - {name: "S3_finisher", epoch_budget: 2.0,  data_percentage: 100, survival_rate: 0.1}
"""


def test_the_seed_configuration_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "seed.yaml"
    path.write_text(SEED, encoding="utf-8")
    assert load_config(path) == load_config(None) == Config()


def test_all_is_measured_where_it_decides_and_at_the_end() -> None:
    plain = load_config(None)
    assert [plain.measures_all(stage) for stage in plain.hyperband.stages] == [False] + [True] * 3
    copying = load_config({"evolution": {"exploit_below": 0.25}})
    assert [copying.measures_all(stage) for stage in copying.hyperband.stages] == [True] * 4
    lone = {"name": "only", "epoch_budget": 1, "data_percentage": 100, "survival_rate": 1}
    config = load_config({"hyperband": {"training_stages": [lone]}})
    assert config.measures_all(config.hyperband.stages[0])


def test_a_stage_keeps_the_gates_of_its_name_unless_it_sets_them() -> None:
    stages = [
        {"name": "S1_shakeout", "epoch_budget": 1, "data_percentage": 50, "survival_rate": 0.5},
        {
            "name": "S2_serious",
            "epoch_budget": 1,
            "data_percentage": 50,
            "survival_rate": 1,
            "min_auroc": None,
        },
        {"name": "mine", "epoch_budget": 1, "data_percentage": 50, "survival_rate": 1},
    ]
    built = [TrainingStage.model_validate(stage) for stage in stages]
    for written in (stages, tuple(stages), built, tuple(built)):
        found = load_config({"hyperband": {"training_stages": written}}).hyperband.training_stages
        assert [stage.min_auroc for stage in found] == [0.55, None, None]
    direct = HyperbandSettings(training_stages=tuple(built)).training_stages
    assert [stage.min_auroc for stage in direct] == [0.55, None, None]
    again = load_config({"hyperband": {"training_stages": direct}})
    assert again.hyperband.training_stages == found


@pytest.mark.parametrize("source", [{}, {"base_model": "mine", "data": {"max_rows": 9}}, Config()])
def test_any_setting_can_be_laid_over_a_source(source: Config | dict[str, Any]) -> None:
    given = {"base_model": "other", "objectives": ["safety"], "vision_tower": None}
    found = load_config(source, {**given, "data": {"max_tokens": 8}})
    known = load_config(source)
    assert (found.base_model, found.objectives, found.vision_tower) == ("other", ("safety",), None)
    assert found.data == known.data.model_copy(update={"max_tokens": 8})
    assert load_config(source, {"data": {}}) == known


def test_what_is_laid_over_a_section_meets_it_under_either_name() -> None:
    sections = {"hyperband": {"promotion": "asha"}, "hyperband_config": {"naive_epochs": 3.0}}
    for source, other in itertools.permutations(sections):
        found = load_config({source: sections[source]}, {other: sections[other]}).hyperband
        assert (found.promotion, found.naive_epochs) == ("asha", 3.0)
    built = load_config({"hyperband": HyperbandSettings(promotion="asha")}, sections)
    assert (built.hyperband.promotion, built.hyperband.naive_epochs) == ("asha", 3.0)


def test_a_copy_of_a_config_is_checked_again() -> None:
    config = load_config({"data": {"max_rows": 96}})
    evolution = config.evolution.model_copy(update={"seed": "x"})
    with pytest.raises(ConfigError, match=r"evolution\.seed: must be a valid integer.*got 'x'"):
        load_config(config.model_copy(update={"evolution": evolution}))
    some = config.model_copy(update={"training": {"attack_rows": 2}})
    assert load_config(some).training.attack_rows == 2
    unread = Config.model_validate({"space": {"x": {"kind": "float", "low": 0, "high": 1}}})
    assert load_config(unread) == unread  # for a search alone
    assert load_config(config) == config


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"hyperband": 5}, "hyperband: must be a mapping (key: value lines), got 5"),
        ({"data": None}, "data: must be a mapping (key: value lines), got None"),
        ({"image_tokens": 0}, "image_tokens: must be greater than or equal to 1, got 0"),
        ({"base_model": {"name": "x"}}, "base_model: must be a valid string, got {'name': 'x'}"),
        ({"base_modle": "x"}, "base_modle: unknown key; did you mean 'base_model'?"),
    ],
)
def test_what_is_laid_over_a_source_is_judged(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"data": {"max_rows": 9}}, overrides)
    assert caught.value.problems == (said,)


def test_without_hyperband_the_last_stage_alone_is_in_force() -> None:
    config = load_config({"hyperband": {"enable_hyperband": False}})
    assert [stage.name for stage in config.hyperband.stages] == ["S3_finisher"]
    assert config.hyperband.full_epochs == 2.0


def test_a_configuration_survives_yaml() -> None:
    config = load_config({"evolution": {"seed": 3}, "data": {"train": "rows.jsonl"}})
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert load_config(yaml.safe_load(text)) == config


def test_a_base_model_in_a_folder_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, work = tmp_path / "job", tmp_path / "work"
    (job / "base").mkdir(parents=True)
    (work / "mine").mkdir(parents=True)
    monkeypatch.chdir(work)
    path = job / "config.yaml"
    for name, found in {
        "base": str(job / "base"),
        "mine": str(work / "mine"),
        "../work/mine": str(work / "mine"),
        str(job / "base"): str(job / "base"),
        "all-minilm-l6-v2": "all-minilm-l6-v2",
        "owner/name": "owner/name",
    }.items():
        path.write_text(f"base_model: {name}", encoding="utf-8")
        assert load_config(path).base_model == found
    assert load_config({"base_model": "mine"}).base_model == str(work / "mine")
    assert load_config({"base_model": "base"}).base_model == "base"
    with pytest.raises(ConfigError, match="base_model"):
        load_config({"base_model": ""})


def test_a_number_too_long_to_write_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"evolution\.seed: .*, got a number too long to write"):
        load_config({"evolution": {"seed": 16**5000}})


def test_an_own_gene_needs_a_hook_or_another_gene_that_it_decides() -> None:
    pace = {"kind": "choice", "values": ["slow", "fast"]}
    with pytest.raises(ConfigError, match=r"space\.pace: .* nothing reads it; name the function"):
        load_config({"space": {"pace": pace}})
    read = load_config({"space": {"pace": pace}, "training": {"hook": "mine:set_pace"}})
    assert list(read.space) == ["pace"]
    rank = {"kind": "choice", "values": [2, 4], "when": {"pace": ["slow"]}}
    assert list(load_config({"space": {"pace": pace, "r": rank}}).space) == ["pace", "r"]


def test_objectives_that_were_asked_for_and_cannot_be_measured_are_named() -> None:
    blind = {"training": {"attack_rows": 0}}
    assert load_config(blind).unmeasured(pictured=False) == []  # nobody asked for one of them
    asked = load_config({**blind, "objectives": ["task_skill", "safety", "cross_modal_gain"]})
    assert asked.unmeasured(pictured=False) == [
        "objectives: safety is not measured and selects nobody: training.attack_rows is 0",
        "objectives: cross_modal_gain is not measured and selects nobody: both classes need "
        "validation rows with a picture",
    ]
    assert len(asked.unmeasured(pictured=True)) == 1


def test_objectives_that_can_be_measured_are_told_from_the_others() -> None:
    blind = load_config({"training": {"attack_rows": 0}, "objectives": ["safety", "memory"]})
    assert blind.measurable(pictured=True) == ["task_skill", "memory"], "P1 always is"
    assert load_config(None).measurable(pictured=True) == list(Config().objectives)
    gain = {*Config().objectives} - {*load_config(None).measurable(pictured=False)}
    assert gain == {"cross_modal_gain"}


def test_a_further_objective_changes_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not which objectives a run has, nor what is said of those that cannot be measured."""
    default = Config().objectives
    monkeypatch.setitem(OBJECTIVES, "delay", OBJECTIVES["memory"])
    assert Config().objectives == default
    assert "delay" not in default
    assert load_config({"training": {"attack_rows": 0}}).unmeasured(pictured=False) == []
    asked = load_config({"objectives": [*default, "delay"], "training": {"attack_rows": 0}})
    assert len(asked.unmeasured(pictured=False)) == 2
    chosen = {"evolution": {"promote_by": "delay"}}
    with pytest.raises(ConfigError, match="promote_by: must be 'rank' or one of the objectives"):
        load_config(chosen)


def test_objectives_of_which_none_can_be_measured_are_refused() -> None:
    blind = load_config({"training": {"attack_rows": 0}, "objectives": ["safety"]})
    pattern = r"objectives: one at least .*; got safety: training.attack_rows is 0; mend that, or"
    with pytest.raises(ConfigError, match=pattern):
        blind.check_measured(pictured=True)
    both = blind.model_copy(update={"objectives": ("safety", "cross_modal_gain")})
    both.check_measured(pictured=True)
    with pytest.raises(ConfigError, match="cross_modal_gain: both classes need validation rows"):
        both.check_measured(pictured=False)
    load_config({"training": {"attack_rows": 0}}).check_measured(pictured=False)


def test_a_promotion_by_what_is_not_measured_is_told() -> None:
    by_safety = {"evolution": {"promote_by": "safety"}}
    blind = load_config({**by_safety, "training": {"attack_rows": 0}})
    (said,) = blind.unmeasured(pictured=False)
    assert said == (
        "evolution.promote_by: safety is not measured, so promotion is by rank: "
        "training.attack_rows is 0"
    )
    assert load_config(by_safety).unmeasured(pictured=False) == []
    by_gain = load_config({"evolution": {"promote_by": "cross_modal_gain"}})
    (said,) = by_gain.unmeasured(pictured=False)
    assert said.startswith("evolution.promote_by: cross_modal_gain is not measured, so promotion")
    assert by_gain.unmeasured(pictured=True, trained=True) == []
    alone = load_config(by_safety | {"hyperband": {"enable_hyperband": False}})
    alone = alone.model_copy(update={"training": blind.training})
    assert alone.unmeasured(pictured=False) == [], "nobody is promoted"


def test_a_promotion_by_what_the_proxy_leaves_out_is_told() -> None:
    settings = {"hyperband": {"cross_modal_proxy": True}}
    config = load_config({**settings, "evolution": {"promote_by": "cross_modal_gain"}})
    assert config.unmeasured(pictured=True, trained=True) == [
        "evolution.promote_by: cross_modal_gain is not measured in S0_sanity and S1_shakeout "
        "(hyperband.cross_modal_proxy), so promotion there is by rank"
    ]
    assert load_config(settings).unmeasured(pictured=True, trained=True) == []


def test_pictures_that_training_reads_ask_for_what_they_bring() -> None:
    (said,) = load_config({}).unmeasured(pictured=False, trained=True)
    assert said.startswith("objectives: cross_modal_gain is not measured")
    assert load_config({}).unmeasured(pictured=True, trained=True) == []
    skill = load_config({"objectives": ["task_skill"]})
    assert skill.unmeasured(pictured=False, trained=True) == []


@pytest.mark.parametrize("name", ["pace", "lr", "lora_alpha"])
def test_settings_that_a_run_has_recorded_stay_readable(name: str) -> None:
    settings = {"space": {name: {"kind": "choice", "values": [1, 2]}}}
    assert list(load_config(settings, recorded=True).space) == [name]


@pytest.mark.parametrize("name", GENE_SIGNS.values())
def test_no_own_gene_has_the_sign_of_another_in_reports(name: str) -> None:
    settings = {"space": {name: {"kind": "choice", "values": [1, 2]}}}
    with pytest.raises(ConfigError, match=rf"space\.{name}: no gene of CoralX; did you mean"):
        load_config({**settings, "training": {"hook": "mine:read"}})
