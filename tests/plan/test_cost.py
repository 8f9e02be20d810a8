"""The plan's arithmetic against hand-worked numbers, its estimates against plain bounds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from coralx.config import Config, load_config
from coralx.errors import ConfigError, DataError, ModelError
from coralx.plan.cost import plan_run
from coralx.plan.table import render_plan

ROOT = Path(__file__).parents[2]
TEXTS = ["short", "a longer text\nover two lines", "öäü, with a comma"]


def _plan(steps: float | None = 1000, **overrides: Any) -> dict[str, Any]:
    return plan_run(load_config(None, {"evolution": overrides}), steps)


def _show(plan: dict[str, Any]) -> str:
    file = io.StringIO()
    render_plan(plan, Console(file=file, width=80))
    return file.getvalue()


def test_the_arithmetic_of_the_default_stages_is_exact() -> None:
    plan = _plan()
    assert (plan["naive_steps"], plan["hyperband_steps"]) == (16_000, 6_500)
    assert plan["speedup"] == 16_000 / 6_500
    stages = [(s["name"], s["genomes"], s["steps"]) for s in plan["stages"]]
    assert stages == [
        ("S0_sanity", 8, 20),
        ("S1_shakeout", 8, 480),
        ("S2_serious", 4, 4000),
        ("S3_finisher", 1, 2000),
    ]


def test_whole_steps_are_shown_beside_the_arithmetic() -> None:
    plan = _plan()
    assert [s["whole_steps_per_genome"] for s in plan["stages"]] == [3, 60, 1000, 2000]
    assert [s["whole_steps"] for s in plan["stages"]] == [24, 480, 4000, 2000]
    assert plan["whole"] == {
        "naive_steps": 16_000,
        "hyperband_steps": 6_504,
        "speedup": 16_000 / 6_504,
    }
    assert "16,000 naive; 6,504 staged; 2.46x fewer" in " ".join(_show(plan).split())


def test_stages_that_cost_more_than_full_training_are_not_called_fewer() -> None:
    text = " ".join(_show(_plan(population=1)).split())
    assert "staged: 3,062.5 steps; 1.53x more." in text
    assert "3,063 staged; 1.53x more." in text
    assert "fewer" not in text


def test_planned_whole_steps_are_those_of_training() -> None:
    config = load_config(None, {"data": {"max_rows": 96}})
    plan = plan_run(config)
    assert [s["whole_steps_per_genome"] for s in plan["stages"]] == [1, 1, 12, 24]
    assert plan["whole"]["naive_steps"] == 8 * 24
    assert plan["whole"]["speedup"] < plan["speedup"]


def test_several_generations_multiply_the_run_alone() -> None:
    one, five = _plan(generations=1), _plan(generations=5)
    assert five["hyperband_steps"] == one["hyperband_steps"]
    assert five["run"]["hyperband_steps"] == 5 * 6_500
    assert five["run"]["naive_steps"] == 5 * 16_000
    assert five["run"]["genomes"] == 40
    assert five["run"]["tokens"] == 5 * five["tokens"]


def test_naive_epochs_are_those_of_the_configuration() -> None:
    config = load_config({"hyperband": {"naive_epochs": 3}})
    assert plan_run(config, 1000)["naive_steps"] == 24_000


def test_steps_are_counted_from_the_rows_in_the_package() -> None:
    plan = _plan(None)
    rows = pq.read_metadata(ROOT / "src/coralx/assets/train.parquet").num_rows
    assert plan["rows"] == rows
    assert plan["steps_per_epoch"] == -(-rows // 8)
    assert plan["naive_steps"] == 16 * plan["steps_per_epoch"]


def test_whole_steps_round_subset_and_batches_up() -> None:
    config = load_config({"data": {"max_rows": 100}, "training": {"batch_size": 8}})
    # 5 % of 100 rows: one batch, 0.05 steps; 20 %: 3 batches, 0.9 steps; 100 %: 13 batches
    stages = plan_run(config)["stages"]
    assert [s["whole_steps_per_genome"] for s in stages] == [1, 1, 13, 26]


def test_a_stage_has_its_share_of_each_task_rounded_up(tmp_path: Path) -> None:
    """Of 20 tasks in both classes three rows each: 5 % of 120 rows are not 6 but 40."""
    path = tmp_path / "train.parquet"
    rows = [
        {"text": f"{task} {label} {i}", "label": label, "task": f"task {task}"}
        for task in range(20)
        for label in (0, 1)
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    others = {name: tmp_path / f"{name}.parquet" for name in ("validation", "test")}
    for name, other in others.items():
        pq.write_table(pa.Table.from_pylist([{**r, "text": name + r["text"]} for r in rows]), other)
    stage = {"epoch_budget": 1, "data_percentage": 5, "survival_rate": 1, "max_grad_norm": 3}
    stages = [{"name": "a", **stage}, {"name": "b", **stage, "data_percentage": 100}]
    config = load_config(
        {
            "data": {"train": path, **others},
            "hyperband": {"training_stages": stages, "grow_rank_at": None},
        }
    )
    planned = plan_run(config)["stages"]
    assert [stage["whole_steps_per_genome"] for stage in planned] == [5, 15]
    assert planned[0]["idle_gates"] == {}


def test_estimates_have_a_plausible_size() -> None:
    plan = _plan()
    per_row = plan["tokens"] / (8 * plan["hyperband_steps"])
    assert 5 < per_row < 64
    # The smallest genome adapts one of six blocks: between 1 and 6 blocks of 3.5 MFLOP, thrice.
    assert 3.5e6 < plan["flops"] / plan["tokens"] < 6 * 3 * 3.6e6
    assert 60e6 < plan["memory"] < 1e9
    peaks = [stage["memory"] for stage in plan["stages"]]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("layers", [1, 2, 3, "all"])
@pytest.mark.parametrize("tower", [None, "efficientnet-lite0"])
def test_flops_are_those_that_training_counts(layers: Any, tower: str | None) -> None:
    """Of one adapter, by hand: 2 FLOPs a multiply-add, of the frozen layers forward and back, of
    A and B thrice; where text alone enters, nothing goes back through query, key and value, and
    the last block is for one token of a row but for keys and values."""
    space = {
        "r": {"kind": "choice", "values": [8]},
        "target_modules": {"kind": "choice", "values": [["all-linear"]]},
        "layers": {"kind": "choice", "values": [layers]},
        "learning_rate": {"kind": "float", "low": 0.001, "high": 0.01},
    }
    config = {"space": space, "vision_tower": tower, "hyperband": {"grow_rank_at": None}}
    plan = plan_run(load_config({**config, "data": {"image_column": "image" if tower else None}}))
    attention, mlp, own = 384 * 384, 384 * 1536, 8 * 384
    rows = plan["hyperband_steps"] * 8
    blocks = 6 if layers == "all" else layers
    tokens = plan["tokens"] / rows
    once = 4 * attention * 2 + 2 * mlp * 2 + 3 * (4 * 2 * own + 2 * 5 * own)
    of_all = 2 * attention * 2 + 3 * 2 * 2 * own  # keys and values
    expected = (blocks - 1) * tokens * once + tokens * of_all + once - of_all
    if tower is None:  # of the lowest block: frozen and A, of query, key and value
        wide = (2 * tokens + 1 if blocks == 1 else 3 * tokens) * (attention + own)
        expected -= wide
    assert plan["flops"] == pytest.approx(rows * 2 * expected, rel=1e-3)


def test_rows_without_pictures_need_no_gradient_of_what_enters(tmp_path: Path) -> None:
    """A tower that finds no picture counts as none."""
    rows = _rows(40)
    for write, name in ((_write_jsonl, "rows.jsonl"), (_write_parquet, "rows.parquet")):
        found = []
        for own in (rows, [{**row, "image": "a.png"} for row in rows]):
            write(tmp_path / name, own)
            found.append(plan_run(load_config({"data": {"train": tmp_path / name}}))["flops"])
        assert found[0] < found[1]


def test_frozen_outputs_fill_memory_block_by_block(tmp_path: Path) -> None:
    """400 rows of 9 characters, 4 tokens each, 384 numbers of 4 bytes, at three blocks."""
    data = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    for number, path in enumerate(data.values()):
        texts = (f"{number}{i:08}" for i in range(400))
        _write_jsonl(path, [{"text": text, "label": i % 2} for i, text in enumerate(texts)])

    def plan(**training: Any) -> dict[str, Any]:
        return plan_run(load_config({"data": data, "training": training}))

    each = 400 * 4 * 384 * 4
    assert plan()["frozen_outputs"] == {"bytes": 3 * each, "in_memory": 3 * each}
    little = plan(prefix_memory_gb=2.9 * each / 1e9)
    assert little["frozen_outputs"] == {"bytes": 3 * each, "in_memory": 2 * each}
    assert "~5 MB in memory beside the peak and ~2 MB in files" in " ".join(_show(little).split())
    assert plan(prefix_cache=False)["frozen_outputs"] == {"bytes": 0, "in_memory": 0}
    assert "Frozen outputs" not in _show(plan(prefix_cache=False))


def test_frozen_outputs_of_next_to_no_rows_and_of_any_depth_are_planned() -> None:
    assert plan_run(Config(), 1e-4)["frozen_outputs"]["bytes"] == 0
    alone = {"evolution": {"population": 1}, "space": {"r": {"kind": "choice", "values": [2]}}}
    layers = {"kind": "integer", "low": 5, "high": 6}
    flat = plan_run(load_config(alone))
    deep = plan_run(load_config(alone, {"space": {**alone["space"], "layers": layers}}))
    assert deep["frozen_outputs"]["bytes"] == 2 * flat["frozen_outputs"]["bytes"] > 0


def test_an_objective_that_no_row_can_be_measured_by_is_told() -> None:
    settings = {"objectives": ["task_skill", "cross_modal_gain"], "data": {"max_rows": 100}}
    assert plan_run(load_config(settings))["unmeasured"] == []
    blind = {"vision_tower": None, "data": {"max_rows": 100, "image_column": None}}
    plan = plan_run(load_config({**settings, **blind}))
    said = " ".join(_show(plan).split())
    assert "Warning: objectives: cross_modal_gain is not measured and selects nobody" in said
    alone = load_config({**settings, "objectives": ["cross_modal_gain"]})
    plan_run(alone)
    with pytest.raises(ConfigError, match="objectives: one at least must be measurable"):
        plan_run(load_config({**settings, **blind, "objectives": ["cross_modal_gain"]}))


def test_gates_that_a_stage_is_too_short_for_are_named() -> None:
    plan = _plan(None)
    idle = {"max_grad_norm": 3, "stop_if_loss_rises": 8}
    assert [stage["idle_gates"] for stage in plan["stages"]] == [idle, {}, {}, {}]
    said = "S0_sanity: 1 step a genome, too few for max_grad_norm (from 3 on) and stop_if_loss"
    assert said in " ".join(_show(plan).split())
    longer, longest = _plan(1000)["stages"][0], _plan(4000)["stages"][0]
    assert longer["whole_steps_per_genome"] == 3
    assert longer["idle_gates"] == {"stop_if_loss_rises": 8}
    assert longest["idle_gates"] == {}


def test_growth_is_planned_where_it_is_trained() -> None:
    """From the stage that it names on, and never in the first, which nobody enters trained."""
    stages = Config().hyperband.training_stages
    cases = {"last first": (stages[2:], "S2_serious"), "off": (stages[2:], None)}
    plans = {
        name: plan_run(
            load_config({"hyperband": {"training_stages": kept, "grow_rank_at": where}}), 1000
        )["stages"]
        for name, (kept, where) in cases.items()
    }
    assert plans["last first"] == plans["off"]
    grown = _plan()["stages"]
    plain = plan_run(load_config({"hyperband": {"grow_rank_at": None}}), 1000)["stages"]
    differ = [one["flops"] > other["flops"] for one, other in zip(grown, plain, strict=True)]
    assert differ == [False, False, True, True]


def test_growth_is_planned_up_to_the_largest_rank() -> None:
    def late(rank: int, below: int) -> dict[str, Any]:
        rate = {"kind": "float", "low": 0.001, "high": 0.01}
        space = {"r": {"kind": "choice", "values": [rank]}, "learning_rate": rate}
        config = load_config({"space": space, "hyperband": {"grow_below_rank": below}})
        return plan_run(config, 1000)["stages"][2]

    assert late(600, 1024) == late(1024, 16)


def test_a_hub_model_leaves_flops_and_memory_open() -> None:
    plan = plan_run(load_config({"base_model": "someone/something"}), 1000)
    assert plan["flops"] is None
    assert plan["memory"] is None
    assert plan["run"]["flops"] is None
    assert plan["tokens"] > 0
    assert "6,500" in _show(plan)


def test_given_steps_need_no_data() -> None:
    config = load_config({"data": {"train": "nowhere.jsonl"}})
    assert plan_run(config, 1000)["hyperband_steps"] == 6_500
    assert plan_run(config, 1000)["tokens"] is None
    with pytest.raises(DataError, match="no such file"):
        plan_run(config)


def test_a_space_too_small_for_the_population_is_refused() -> None:
    space = {"r": {"kind": "choice", "values": [2, 4]}}
    with pytest.raises(ConfigError, match="2"):
        plan_run(load_config({"space": space}), 1000)


def test_the_table_shows_the_figures() -> None:
    shown = _show(_plan())
    for figure in ("2.5", "16,000 steps", "6,500 steps", "2.46x", "48,000", "19,500"):
        assert figure in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_table_keeps_names_that_look_like_markup() -> None:
    plan = _plan()
    plan["stages"][0]["name"] = "[bold]"
    assert "[bold]" in _show(plan)


def _rows(count: int, length: Callable[[int], int] = lambda i: i + 1) -> list[dict[str, Any]]:
    return [{"text": "x" * length(i), "label": i % 2} for i in range(count)]


def _write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")


def _write_array(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = [
    ("rows.jsonl", _write_jsonl),
    ("rows.json", _write_array),
    ("rows.csv", _write_csv),
    ("rows.parquet", _write_parquet),
]


def _count(**data: Any) -> int:
    return int(plan_run(load_config({"data": data}))["rows"])


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_rows_of_every_kind_of_file_are_counted(tmp_path: Path, name: str, write: Any) -> None:
    splits = {split: tmp_path / f"{split}_{name}" for split in ("train", "validation", "test")}
    for split, path in splits.items():
        rows = [{"label": i % 2, "text": split + text} for i, text in enumerate(TEXTS)]
        write(path, rows)
    assert _count(**splits) == 3
    with pytest.raises(DataError, match="no column 'body'; there are 'label', 'text'"):
        _count(**splits, text_column="body")


def test_shares_set_aside_are_taken_off(tmp_path: Path) -> None:
    path, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    _write_jsonl(path, _rows(100))
    _write_jsonl(other, [{"text": f"other {i}", "label": i % 2} for i in range(4)])
    assert _count(train=path) == 64  # 100 - 20 - 16
    assert _count(train=path, test=other) == 80
    assert _count(train=path, max_rows=50) == 50


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", "x", "must be one of"),
        ("rows.jsonl", "", "the file is empty"),
        ("rows.jsonl", "{not json}\n", "cannot be read as json: line 1"),
        ("rows.jsonl", "3\n", "line 1 must be an object"),
        ("rows.parquet", "not parquet", "cannot be read as parquet"),
        ("rows.csv", "text\n", "no rows"),
        ("rows.jsonl", '{"text": "a"}\n', "no column 'label'; there are 'text'"),
        ("rows.jsonl", '{"text": "a", "label": 2}\n', r"1 bad row.*skip\n  row 1: label must be"),
        ("rows.csv", "text,label\na,1\nb,1\nc,1\nd,1\n", "both classes are needed, got 2 unsafe"),
        ("rows.csv", "text,label\na,no\nb,yes\n", "labels are 'no', 'yes'; write 0 and 1"),
    ],
)
def test_unusable_files_are_explained(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        _count(train=path)


@pytest.mark.parametrize("split", ["validation", "test", "clean_holdout"])
def test_the_other_files_are_looked_at(tmp_path: Path, split: str) -> None:
    _write_jsonl(tmp_path / "train.jsonl", _rows(40))
    config = load_config({"data": {"train": tmp_path / "train.jsonl", split: tmp_path / "x.jsonl"}})
    with pytest.raises(DataError, match=r"x\.jsonl: no such file"):
        plan_run(config)
    _write_jsonl(tmp_path / "x.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 3}])
    with pytest.raises(DataError, match=r"x\.jsonl: .*\n(.*\n)?  row 2: label must be 0 or 1"):
        plan_run(config)
    _write_jsonl(tmp_path / "x.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 0}])
    if split == "clean_holdout":
        assert plan_run(config)["rows"] == 24
    else:
        with pytest.raises(DataError, match=f"{split} rows: both classes are needed"):
            plan_run(config)


def test_rows_that_are_skipped_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    _write_jsonl(path, [*_rows(40), {"text": "", "label": 1}])
    with pytest.raises(DataError, match="row 41: text must be a non-empty string"):
        _count(train=path)
    assert _count(train=path, on_bad_rows="skip") == 24


def test_rows_of_pictures_that_may_not_open_are_the_most_there_can_be(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    _write_jsonl(path, [row | {"image": f"{i}.png"} for i, row in enumerate(_rows(40))])
    plan = plan_run(load_config({"data": {"train": path, "on_bad_rows": "skip"}}))
    assert "rows" in plan["estimated"]
    assert "at most 24 training rows" in _show(plan)
    plan = plan_run(load_config({"data": {"train": path}}))  # a run refuses them all
    assert "rows" not in plan["estimated"]
    assert "at most" not in _show(plan)


def test_rows_that_a_run_would_refuse_are_told_where_steps_are_given(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    _write_jsonl(path, _rows(40))
    plan = plan_run(load_config({"data": {"train": path, "test": path}}), 10)
    (told,) = plan["warnings"]
    assert told.startswith("a run would refuse the rows: ")
    assert "in two splits" in told
    assert f"Warning: {told.split()[0]}" in _show(plan)


def test_more_tokens_than_the_model_has_places_are_refused() -> None:
    with pytest.raises(ModelError, match="has 512 positions, got 600; set 512 or fewer"):
        plan_run(load_config({"data": {"max_tokens": 600}}))


@pytest.mark.parametrize("name", ["default", "seed", "quick", "text_only"])
def test_every_shipped_configuration_can_be_planned(name: str) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    plan = plan_run(load_config(path))
    assert plan["speedup"] > 1
    assert path.read_text(encoding="utf-8").startswith("# coralx ")


def test_the_default_configuration_spells_out_the_built_in_job() -> None:
    assert load_config(ROOT / "configs/default.yaml") == Config()


def test_the_peak_of_a_stage_is_reckoned_with_the_most_costly_that_may_get_there() -> None:
    def peaks(ranks: list[int]) -> list[int]:
        settings = {
            "evolution": {"population": len(ranks)},
            "space": {"r": {"kind": "choice", "values": ranks}},
        }
        return [stage["memory"] for stage in plan_run(load_config(settings), 1000)["stages"]]

    assert peaks([2, 512])[-1] == peaks([512])[-1] > peaks([2])[-1]
