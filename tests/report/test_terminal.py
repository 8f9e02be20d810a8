"""The terminal tables, from a made-up summary."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from coralx.report.terminal import render

STAGES = ("S0_sanity", "S1_shakeout", "S2_serious", "S3_finisher")


def spent(name: str, genomes: int, steps: int) -> dict[str, Any]:
    return {
        "name": name,
        "genomes": genomes,
        "stopped": 0,
        "steps": steps,
        "planned_steps": float(steps),
        "tokens": 240 * steps,
        "computed_tokens": 300 * steps,
        "flops": 2e10 * steps,
        "seconds": 0.1 * steps,
        "busy_share": 0.9,
        "peak_memory": 310_000_000,
    }


def correlation(
    stage: str,
    following: str,
    name: str,
    rho: float,
    low: float | None,
    high: float | None,
    predicts: bool | None = True,
) -> dict[str, Any]:
    return {
        "stage": stage,
        "next_stage": following,
        "objective": name,
        "entered": 24,
        "n": 3 if low is None else 22,
        "rho": rho,
        "low": low,
        "high": high,
        "predicts": predicts,
    }


def member(name: str) -> dict[str, Any]:
    values = {
        "task_skill": 0.912,
        "safety": 0.8,
        "false_positive_cost": 0.05,
        "memory": 96.2e6,
        "cross_modal_gain": -0.01,
        "calibration": 0.95,
    }
    genes = {
        "r": 8,
        "alpha": 16.0,
        "dropout": 0.0,
        "target_modules": ["query", "value"],
        "layers": 2,
        "use_rslora": True,
        "learning_rate": 1.2e-3,
        "warmup": 0.02,
    }
    intervals = {key: {"value": v, "low": v - 0.02, "high": v + 0.02} for key, v in values.items()}
    return {
        "genome": name,
        "stage": "S3_finisher",
        "genes": genes,
        "trained_rank": 16,
        "objectives": values,
        "details": {},
        "test": intervals | {"memory": dict.fromkeys(("value", "low", "high"), 241.3e6)},
        "test_details": {},
        "adapter": f"adapters/{name}",
    }


@pytest.fixture
def summary() -> dict[str, Any]:
    lines = [
        spent(name, n, s)
        for name, n, s in zip(STAGES, (8, 8, 4, 1), (20, 480, 4000, 2000), strict=True)
    ]
    total = spent("all", 8, 6500)
    return {
        "base_model": "all-minilm-l6-v2",
        "seed": 0,
        "finished": True,
        "wall_seconds": 372.4,
        "rows": {"train": 1920, "validation": 400, "test": 600, "clean_holdout": 0},
        "classes": {},
        "missing_classes": {},
        "stage_classes": {},
        "task_classes": {},
        "picture_classes": {},
        "left_out": {"rows.jsonl": 1},
        "reading": {},
        "stand_ins": [],
        "genomes": 8,
        "objectives": dict.fromkeys(member("x")["objectives"], "max"),
        "front": [member("0123456789ab"), member("ba9876543210")],
        "hypervolume": 0.5,
        "space": [name for name in member("x")["genes"] if name != "warmup"],
        "generations": [
            {
                "index": 0,
                "hypervolume": 0.5,
                "first_front_share": 0.125,
                "non_dominated": {"S0_sanity": 0.5, "S1_shakeout": 0.875},
            }
        ],
        "stage_correlation": [
            correlation("S0_sanity", "S1_shakeout", "task_skill", 0.81, 0.43, 0.95),
            correlation("S0_sanity", "S1_shakeout", "safety", 0.1, -0.33, 0.49, False),
            correlation("S1_shakeout", "S2_serious", "task_skill", -0.5, None, None, None),
        ],
        "funnel": [dict(zip(STAGES, (8, 8, 4, 1), strict=True))],
        "merge": {"children": 5, "beat_better_parent": 2},
        "stopped": [
            {
                "genome": "feedfacefeed",
                "generation": 0,
                "stage": "S0_sanity",
                "reason": "gradient norm 7.3 is above the limit of 5",
            }
        ],
        "efficiency": {
            **total,
            "efficiency_ratio": 16000 / 6500,
            "naive_steps": 16000.0,
            "saved_by_leaving_early": 120.0,
            "stages": lines,
        },
    }


def printed(summary: dict[str, Any], width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    render(summary, Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 120])
def test_everything_is_there_and_fits(summary: dict[str, Any], width: int) -> None:
    text = printed({**summary, "stand_ins": ["0123/S3-9f"]}, width)
    for words in (
        "8 genomes in 1 generation, 2 on the front, 6 min 12 s",
        "1 row left out of rows.jsonl",
        "Warning: checkpoint 0123/S3-9f was lost, and trained again",
        "S0_sanity → S1_shakeout → S2_serious → S3_finisher",
        "8 → 8 → 4 → 1",
        "gradient norm 7.3 is above the limit of 5",
        "0123456789ab",
        "96.2",
        "241.3",
        "12%",
        "Non-dominated within a stage, mean: S0_sanity 50%, S1_shakeout 88%",
        "22 of 24 ranked",
        "0.81",
        ".43–.95",  # noqa: RUF001
        "-.33–.49",  # noqa: RUF001
        "-0.50",
        ".892–.932",  # noqa: RUF001
        "-.030–.010",  # noqa: RUF001
        "2.46×",  # noqa: RUF001
        "120 planned steps saved",
        "2 of 5 merged children had a higher AUROC than either parent",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_one_line_of_genes_says_what_was_trained(summary: dict[str, Any]) -> None:
    text = " ".join(printed(summary, 80).split())
    assert "warmup" not in text  # neither varied nor other than usual
    assert "r 8 grown to 16, α 16, query+value, last 2 layers, rslora, lr 0.0012" in text  # noqa: RUF001


def test_a_gene_outside_the_space_shows_where_it_is_not_the_usual(summary: dict[str, Any]) -> None:
    summary["front"][0]["genes"]["warmup"] = 0.1
    assert printed(summary, 80).count("warmup 0.1") == 1


def test_a_stage_that_is_not_shown_to_predict_the_next_is_a_plain_warning(
    summary: dict[str, Any],
) -> None:
    text = " ".join(printed(summary, 80).split())
    assert (
        "Warning: Ranks in S0_sanity are not shown to predict ranks in S1_shakeout in: Safety "
        "(rho 0.10). What S0_sanity let go may be good in these."
    ) in text
    assert text.count("Warning") == 1  # three genomes say nothing either way
    del summary["stage_correlation"][1]
    assert "Warning" not in printed(summary, 80)


def test_output_that_knows_ascii_alone(summary: dict[str, Any]) -> None:
    text = printed(summary, 80, "ascii")
    assert "8 > 8 > 4 > 1" in text
    assert "?" not in text
    lines = [line for line in text.splitlines() if "|" in line]
    assert {line.index("|") for line in lines if line.startswith("generation")} == {
        line.index("|") for line in lines if line.startswith("all  ") and ">" in line
    }


def test_names_are_not_markup_and_cannot_steer_the_terminal(summary: dict[str, Any]) -> None:
    summary["stopped"][0] |= {"genome": "[red]x[/red]", "reason": "\x1b]0;owned\x07[/bold]"}
    summary["base_model"] = "[/nonsense]\x1b[2J"
    summary["left_out"] = {"[b]\x1b[2J.csv": 3}
    text = printed(summary, 80)
    assert "[red]x[/red]" in text
    assert "[/nonsense]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_ratio_of_a_run_that_is_not_finished_is_one_so_far(summary: dict[str, Any]) -> None:
    assert "so far" not in printed(summary, 120)
    summary["finished"] = False
    said = "Efficiency ratio 2.46× (so far, which later stages lower): 16,000 steps"  # noqa: RUF001
    assert said in printed(summary, 120)
    one = summary["stopped"][0]
    summary["stopped"] = [{**one, "genome": f"{place}"} for place in range(summary["genomes"])]
    text = printed(summary, 120)
    assert "(every genome so far was stopped): 16,000 steps" in text
    assert "2.46" not in text


def test_run_without_results(summary: dict[str, Any]) -> None:
    nothing = {"genomes": 0, "front": [], "funnel": [], "stopped": [], "generations": []}
    text = printed({**summary, **nothing, "finished": False, "wall_seconds": 0.0}, 80)
    assert "not finished yet" in text
    assert "No genome has been trained yet." in text


def test_front_without_test_figures_or_missing_objectives(summary: dict[str, Any]) -> None:
    for item in summary["front"]:
        item["test"] = {}
    summary["front"][0]["objectives"] = {"task_skill": None}
    text = printed(summary, 80)
    assert "test data" not in text
    assert "–" in text  # noqa: RUF001


def test_what_an_adapter_does_at_its_own_threshold_stands_beside_the_front(
    summary: dict[str, Any],
) -> None:
    """The front's false-positive rate is at another one, which nobody has before the labels."""
    assert "As exported" not in printed(summary, 80)  # of a run from before they were measured
    recall = {"value": 0.615, "low": 0.562, "high": 0.669}
    flagged = {"value": 0.201, "low": 0.172, "high": 0.230}
    figures = {"as_served/recall": recall, "as_served/false_positive_rate": flagged}
    summary["front"][0]["test_details"] = figures
    text = printed(summary, 80)
    lines = text[text.index("As exported") :].splitlines()
    assert lines[1].split() == ["genome", "unsafe", "rows", "caught", "safe", "rows", "flagged"]
    assert lines[3].split() == ["0123456789ab", "0.615", "0.201"]
    assert lines[4].split() == [".562–.669", ".172–.230"]  # noqa: RUF001
    assert lines[5].split() == ["ba9876543210", "–", "–"]  # noqa: RUF001
    assert "at the threshold that catches 90% of these unsafe rows" in text


def test_rows_and_classes_with_few_are_told(summary: dict[str, Any]) -> None:
    summary["classes"] = {"validation": {"unsafe": 2, "safe": 398}}
    text = " ".join(printed(summary, 80).split())
    assert "Rows: train 1,920, validation 400 (2 unsafe, 398 safe), test 600" in text
    assert "Warning: validation has 2 unsafe rows; figures of fewer than about 30" in text


def test_tasks_that_skill_leaves_out_are_told(summary: dict[str, Any]) -> None:
    summary["missing_classes"] = {"validation": {"in\x1b[2Jsults": ["safe"]}, "test": {}}
    text = " ".join(printed(summary, 80).split())
    assert "Warning: task_skill on validation rows leaves out tasks without both classes:" in text
    assert "\x1b[2J" not in text


def test_stages_that_choose_by_few_rows_are_told(summary: dict[str, Any]) -> None:
    summary["classes"] = {"validation": {"unsafe": 32, "safe": 368}}
    summary["stage_classes"] = {"S1_shakeout": {"unsafe": 8, "safe": 92}}
    text = " ".join(printed(summary, 80).split())
    assert "Warning: validation has 8 unsafe rows for S1_shakeout to choose by;" in text


def test_tasks_and_pictures_with_few_rows_are_told(summary: dict[str, Any]) -> None:
    summary["classes"] = {"validation": {"unsafe": 99, "safe": 99}}
    few, many = {"unsafe": 1, "safe": 50}, {"unsafe": 50, "safe": 49}
    summary["task_classes"] = {"validation": {"thr\x1b[2Jeat": few, "b": many}}
    summary["picture_classes"] = {"validation": few}
    text = " ".join(printed(summary, 80).split())
    assert "Warning: validation has 1 unsafe row of task" in text
    assert "1 unsafe row with a picture (for cross_modal_gain and safety);" in text
    assert "\x1b[2J" not in text


def test_texts_that_the_model_does_not_read_whole_are_told(summary: dict[str, Any]) -> None:
    summary["reading"] = {
        "max_tokens": 64,
        "rows": {"train": 1920, "validation": 400, "test": 600},
        "cut": {"train": 7, "validation": 0, "test": 0},
        "unknown": {"train": 0, "validation": 0, "test": 0},
        "trained_on": {"validation": 0, "test": 0},
    }
    text = " ".join(printed(summary, 80).split())
    assert "Warning: texts longer than data.max_tokens (64) are cut: 7 of 1,920 train" in text


def test_peak_memory_says_what_it_is_of(summary: dict[str, Any]) -> None:
    assert "process" in printed(summary, 80)
    summary["machine"] = "x86_64, 8 cores, cuda"
    assert "device" in printed(summary, 80)


def test_a_member_no_better_than_chance_is_named(summary: dict[str, Any]) -> None:
    assert "chance" not in printed(summary, 80)
    summary["front"][0]["test"]["task_skill"]["value"] = 0.5
    summary["front"][1]["test"] = {}
    summary["front"][1]["objectives"]["task_skill"] = 0.31
    text = " ".join(printed(summary, 80).split())
    assert "no better than chance: test AUROC 0.500" in text
    assert "no better than chance: validation AUROC 0.310" in text


def test_a_member_whose_interval_holds_chance_is_named(summary: dict[str, Any]) -> None:
    """As a collapsed adapter that says the same of nearly all rows."""
    summary["front"][0]["test"]["task_skill"] = {"value": 0.503, "low": 0.455, "high": 0.537}
    text = " ".join(printed(summary, 80).split())
    told = "not shown to be better than chance: test AUROC 0.503 (0.455 to 0.537)"
    assert text.count(told) == text.count("chance") == 1


def test_an_own_objective_has_no_interval(summary: dict[str, Any]) -> None:
    summary["objectives"]["own:gap"] = "max"
    for member in summary["front"]:
        member["test"]["own:gap"] = {"value": 0.437, "low": None, "high": None}
    text = printed(summary, 120)
    assert "0.437" in text
    assert "\u2013\u2013" not in text


def test_a_long_front_is_shown_in_part_and_counted(summary: dict[str, Any]) -> None:
    summary["front"] = [member(f"{index:012x}") for index in range(35)]
    reason = {"stage": "S0_sanity", "reason": "loss is not finite", "generation": 0}
    summary["stopped"] = [{"genome": f"{index:012d}", **reason} for index in range(31)]
    shown = printed(summary, 120)
    assert shown.count("and 5 more: report.html and `coralx report --json` have them all") == 3
    assert shown.count("and 1 more: report.html") == 1
    assert f"{29:012x}" in shown
    assert f"{30:012x}" not in shown
    assert "35 on the front" in shown
