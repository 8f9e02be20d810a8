"""The command line as a user meets it: real processes, one small real run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from coralx.cli import app
from coralx.cli.progress import View
from coralx.cli.starter import write_starter
from coralx.compare.table import render_comparison
from coralx.errors import ExtinctError

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "run",
    "resume",
    "plan",
    "compare",
    "init",
    "report",
    "export",
    "reproduce",
    "predict",
)
HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "plotly", "peft", "pymoo")
LIMIT = 240  # seconds; the machine may be busy


def _succeed(*arguments: str | Path, stdin: str | None = None) -> str:
    """The command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "coralx", *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _call(*arguments: str | Path) -> Result:
    """The command in this process: the same but for a start that takes a second, and signals."""
    with contextlib.chdir(ROOT):
        return CliRunner().invoke(
            app, list(map(str, arguments)), prog_name="coralx", env={"COLUMNS": "100"}
        )


def _show(*arguments: str | Path) -> str:
    done = _call(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def _refuse(*arguments: str | Path) -> str:
    """What a refused command says: exit code 2, nothing on stdout, no traceback."""
    done = _call(*arguments)
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small job on rows with and without pictures."""
    folder = tmp_path_factory.mktemp("cli") / "job"
    write_starter(folder)
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    settings["data"] |= {"max_rows": 64, "max_tokens": 32}
    settings["evolution"] = {"population": 3, "generations": 1, "seed": 3}
    settings["space"]["layers"] = {"kind": "choice", "values": [2]}
    settings["training"] |= {"attack_rows": 4, "bootstrap_draws": 50, "threads": 1}
    settings["hyperband"]["training_stages"][1]["epoch_budget"] = 1.0
    settings["hyperband"]["naive_epochs"] = 1.5
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def output(job: Path) -> str:
    """What the run of the job printed; it is in job/run."""
    return _succeed("run", job / "config.yaml", "--out", job / "run")


@pytest.fixture(scope="session")
def finished(job: Path, output: str) -> Path:
    assert output
    return job / "run"


@pytest.fixture(scope="session")
def summary(finished: Path) -> dict[str, Any]:
    return json.loads(_succeed("report", finished, "--json"))  # type: ignore[no-any-return]


def test_every_detail_is_documented(summary: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "summary.md").read_text(encoding="utf-8")
    parts = {"auroc/task/": "TASK", "attack_auroc/": "KIND", "attack_success/": "KIND"}
    keys = {
        key for member in summary["front"] for key in (*member["details"], *member["test_details"])
    }
    named = {
        next((part + name for part, name in parts.items() if key.startswith(part)), key)
        for key in keys
    }
    assert {"threshold", "auroc/text_alone", "attack_success/KIND", "auroc/task/TASK"} <= named
    assert [key for key in sorted(named) if f"`{key}`" not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    shown = _show(command, "--help")
    assert f"coralx {command}" in shown
    assert "Example" in shown


@pytest.mark.parametrize("command", ["run", "plan", "compare"])
def test_an_argument_that_may_be_left_out_is_bracketed_once(command: str) -> None:
    assert f"coralx {command} [OPTIONS] [CONFIG]" in _show(command, "--help")


def test_help_lists_every_command() -> None:
    shown = _show("--help")
    assert all(command in shown for command in COMMANDS)


def test_version() -> None:
    assert re.fullmatch(r"coralx \d+\.\d+\.\d+\n", _succeed("--version"))


INSTANT = """
import sys
import coralx
from coralx.cli import app

for arguments in [["--help"], ["run", "--help"], ["compare", "--help"], ["plan"],
                  ["plan", "configs/seed.yaml", "--json"]]:
    try:
        app(arguments)
    except SystemExit as end:
        assert not end.code
    print("loaded:", [name for name in {heavy!r} if name in sys.modules], "by", *arguments)
"""


def test_what_must_be_instant_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INSTANT.format(heavy=HEAVY)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    loaded = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert len(loaded) == 5
    assert [line for line in loaded if not line.startswith("loaded: [] by ")] == []


def test_plan_prints_the_arithmetic_of_the_default_stages() -> None:
    arguments = ("plan", "configs/seed.yaml", "--steps-per-epoch", "1000", "--population", "8")
    plan = json.loads(_succeed(*arguments, "--json"))
    assert (plan["naive_steps"], plan["hyperband_steps"]) == (16_000, 6_500)
    assert plan["speedup"] == pytest.approx(2.4615384615)
    assert [(s["genomes"], s["steps"]) for s in plan["stages"]] == [
        (8, 20),
        (8, 480),
        (4, 4000),
        (1, 2000),
    ]
    shown = _show(*arguments)
    assert all(figure in shown for figure in ("16,000", "6,500", "2.46x"))


def test_plan_options_override_the_configuration() -> None:
    plan = json.loads(_show("plan", "--population", "4", "--generations", "5", "--json"))
    assert (plan["population"], plan["run"]["generations"]) == (4, 5)


def test_a_run_folder_holds_all_that_belongs_in_it(finished: Path) -> None:
    for name in ("config.yaml", "journal.jsonl", "summary.json", "report.html"):
        assert (finished / name).stat().st_size > 0
    assert any((finished / "checkpoints").rglob("*.safetensors"))
    for adapter in (finished / "adapters").iterdir():
        assert (adapter / "adapter_config.json").is_file()
        assert (adapter / "adapter_model.safetensors").is_file()


def test_a_run_says_how_it_goes_and_what_comes_next(output: str, finished: Path) -> None:
    assert "loading base model" in output
    assert re.search(r"generation 1/1  short: 3 genomes, \d+ steps?, best AUROC 0\.\d{3}", output)
    assert "3 → 1" in output
    assert "Efficiency ratio" in output
    assert str(finished / "report.html") in output
    assert f"coralx predict {finished}/adapters/" in output
    assert f"coralx export {finished}" in output
    assert f"coralx report {finished}" in output
    assert "coralx resume" not in output, "it is finished"
    assert "\x1b" not in output
    assert not re.search(r"%\|.*it/s", output)  # no progress bars of libraries


def test_the_summary_has_what_the_surface_promises(summary: dict[str, Any]) -> None:
    promised = {"front", "funnel", "stopped", "efficiency", "hypervolume", "seed", "versions"}
    assert promised <= set(summary)
    figures = ("efficiency_ratio", "steps", "naive_steps", "tokens", "seconds", "busy_share")
    assert {*figures, "stages"} <= set(summary["efficiency"])
    for member in summary["front"]:
        assert {"genome", "stage", "genes", "objectives", "test", "adapter"} <= set(member)
        for interval in member["test"].values():
            assert interval["low"] <= interval["value"] <= interval["high"]
    assert summary["seed"] == 3
    assert summary["funnel"] == [{"short": 3, "long": 1}]


def test_the_summary_names_adapters_that_are_there(summary: dict[str, Any], finished: Path) -> None:
    for member in summary["front"]:
        assert (finished / member["adapter"] / "adapter_config.json").is_file()


def test_report_writes_its_files_anew(finished: Path, summary: dict[str, Any]) -> None:
    (finished / "report.html").unlink()
    (finished / "summary.json").unlink()
    shown = _show("report", finished)
    assert str(finished / "report.html") in shown
    assert (finished / "report.html").is_file()
    assert json.loads((finished / "summary.json").read_text(encoding="utf-8")) == summary


def test_report_works_on_a_run_that_is_not_finished(finished: Path, tmp_path: Path) -> None:
    lines = (finished / "journal.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    assert json.loads(_show("report", tmp_path, "--json"))["finished"] is False
    assert "not finished yet" in _show("report", tmp_path)


def test_resuming_a_finished_run_trains_nothing(finished: Path) -> None:
    before = (finished / "journal.jsonl").read_bytes()
    shown = _show("resume", finished)
    assert "Efficiency ratio" in shown
    assert "loading" not in shown
    assert (finished / "journal.jsonl").read_bytes() == before


def test_a_run_does_not_write_over_another(job: Path, finished: Path) -> None:
    done = _call("run", job / "config.yaml", "--out", finished)
    assert done.exit_code == 2
    assert f"coralx resume {finished}" in done.stderr


def test_an_exported_genome_gives_the_same_logits_in_stock_peft(
    finished: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    """By the very lines that are printed."""
    name = summary["front"][0]["genome"]
    shown = _show("export", finished, name[:6], tmp_path / "adapter")
    assert name in shown
    code = shown[shown.index("import torch") :].partition("\n\n")[0]
    asked = "How do I bake bread?"
    texts = [asked, "how to break into a house without a key", "ok " * 70]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    scored = _succeed("predict", tmp_path / "adapter", "-", stdin=rows).splitlines()
    for line in map(json.loads, scored):
        assert set(line) == {"text", "score", "unsafe"}
        stock: dict[str, Any] = {}
        exec(code.replace(asked, line["text"].strip()), stock)  # noqa: S102 - what it prints
        assert stock["score"] == pytest.approx(line["score"], abs=1e-5)
        assert stock["unsafe"] == line["unsafe"]
    assert len({json.loads(line)["score"] for line in scored}) == 3


def test_predict_scores_rows_with_and_without_pictures(
    job: Path, finished: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    adapter = finished / summary["front"][0]["adapter"]
    out = tmp_path / "scored.jsonl"
    arguments = ["predict", str(adapter), str(job / "test.jsonl"), "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    rows = [json.loads(line) for line in (job / "test.jsonl").read_text("utf-8").splitlines()]
    scored = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    threshold = json.loads((adapter / "coralx.json").read_text(encoding="utf-8"))["threshold"]
    for row, line in zip(rows, scored, strict=True):
        score, unsafe = line.pop("score"), line.pop("unsafe")
        assert line == row
        assert 0 <= score <= 1
        assert unsafe is (score >= threshold)
    assert [path.name for path in tmp_path.iterdir()] == ["scored.jsonl"]


def test_predict_says_at_the_end_what_the_model_has_not_read(
    finished: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    adapter, rows = finished / summary["front"][0]["adapter"], tmp_path / "rows.jsonl"
    texts = ["fine", "", "long " * 29, *["long " * 33] * 300, "\U0001f52a"]
    rows.write_text(
        "".join(json.dumps({"text": text, "image": None}) + "\n" for text in texts), "utf-8"
    )
    result = _call("predict", adapter, rows, "--on-bad-rows", "skip", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert [line for line in result.stderr.splitlines() if line.startswith("warning: ")] == [
        "warning: 300 of 303 texts are longer than the adapter's max_tokens (32) and were cut",
        "warning: 1 of 303 texts hold no token that all-minilm-l6-v2 knows: it cannot tell them "
        "apart",
    ]
    rows.write_text(json.dumps({"text": "fine", "image": None}), "utf-8")
    assert "warning" not in _call("predict", adapter, rows).stderr


def test_compare_prints_one_document_and_tells_the_rest_on_stderr(job: Path) -> None:
    arguments = ["compare", str(job / "config.yaml"), "--genomes", "2", "--rows", "32", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert [line["mode"] for line in document["modes"]] == ["simulation", "naive", "hyperband"]
    assert document["complete"]
    assert "naive 2/2" in done.stderr
    assert "simulation: no training, figures invented" in done.stderr
    assert "Warning" not in done.stderr


def test_an_interrupted_comparison_prints_what_was_measured(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = View.say

    def interrupt(view: View, message: str) -> None:
        say(view, message)
        if message.startswith("naive 1/2: "):
            os.kill(os.getpid(), signal.SIGINT)

    def draw(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # once more, before the first line
        render_comparison(*args)

    monkeypatch.setattr(View, "say", interrupt)
    monkeypatch.setattr("coralx.compare.table.render_comparison", draw)
    done = _call("compare", job / "config.yaml", "--genomes", "2", "--rows", "32")
    assert done.exit_code == 130
    assert "stopped; what was measured so far" in done.stderr
    assert "Traceback" not in done.stderr
    assert "naive 1/2" in done.stdout
    assert "simulation: no training, figures invented" in done.stdout
    assert "hyperband against naive" not in done.stdout


def test_a_comparison_that_dies_out_prints_naive_and_ends_with_an_error(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise ExtinctError("nobody is left")

    monkeypatch.setattr("coralx.compare.comparison.run_coralx", die)
    done = _call("compare", job / "config.yaml", "--genomes", "2", "--rows", "32", "--json")
    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert (document["complete"], document["extinct"]) == (False, "nobody is left")
    assert [line["mode"] for line in document["modes"]] == ["simulation", "naive"]


def test_init_writes_a_job_and_names_the_next_command(tmp_path: Path) -> None:
    shown = _succeed("init", tmp_path / "my job")
    assert f"coralx run '{tmp_path}/my job/config.yaml'" in shown
    assert "nothing is overwritten" in _refuse("init", tmp_path / "my job")


def test_bad_configurations_are_refused_with_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("evolution: {populatoin: 3}\ntraining: {batch_size: 0}\n", encoding="utf-8")
    assert "did you mean 'population'" in _refuse("compare", path)
    for command in ("run", "plan"):
        said = _refuse(command, path, "--generations", "0")
        assert "did you mean 'population'" in said
        assert "training.batch_size" in said
        assert "evolution.generations" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.yaml"), "no such file"),
        (("plan", "nowhere.yaml"), "no such file"),
        (("plan", "--steps-per-epoch", "0"), "must be above 0 and at most 1e+12, got 0"),
        (("plan", "--steps-per-epoch", "inf"), "must be above 0 and at most 1e+12, got inf"),
        (("plan", "--steps-per-epoch", "nan"), "must be above 0 and at most 1e+12, got nan"),
        (("plan", "--steps-per-epoch=-1"), "must be above 0 and at most 1e+12, got -1"),
        (("plan", "--population", "many"), "'many'"),
        (("compare", "nowhere.yaml"), "no such file"),
        (("compare", "--genomes", "0"), "--genomes"),
        (("compare", "--rows", "7"), "'7'"),
        (("run", "--seed=abc"), "'abc'"),
        (("compare", "--seed", "-1", "--json"), "evolution.seed"),
        (("resume", "nowhere"), "not a run directory"),
        (("report", "nowhere"), "not a run directory"),
        (("report", "nowhere", "--json"), "not a run directory"),
        (("export", "nowhere", "abc", "somewhere"), "not a run directory"),
        (("predict", "nowhere", "nowhere.jsonl"), "no such file"),
        (("predict", "nowhere", "nowhere.jsonl", "--device", "tpu"), "'tpu' is not one of 'auto',"),
        (("predict", "nowhere", "nowhere.jsonl", "--on-bad-rows", "x"), "not one of 'refuse',"),
        (("run", "--out", "pyproject.toml"), "is a file"),
        (("run", "--out", ""), "must name a folder"),
        (("evolve",), "evolve"),
    ],
)
def test_bad_input_is_refused(arguments: tuple[str, ...], message: str) -> None:
    assert message in _refuse(*arguments)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("base_model: no-such-model\n", encoding="utf-8")
    for command in ("plan", "run", "compare"):
        assert "'no-such-model' is no local folder" in _refuse(command, path)


def test_genomes_are_named_by_a_unique_beginning(finished: Path, tmp_path: Path) -> None:
    assert "more than one genome begins" in _refuse("export", finished, "", tmp_path / "a")
    assert "no trained genome begins" in _refuse("export", finished, "zz", tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("", encoding="utf-8")
    name = next((finished / "adapters").iterdir()).name
    assert "not an empty folder" in _refuse("export", finished, name, tmp_path / "b")


def test_bad_rows_are_refused_by_number(
    finished: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    adapter = finished / summary["front"][0]["adapter"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "fine"}\n{"text": ""}\n', encoding="utf-8")
    out = tmp_path / "scored.jsonl"
    result = CliRunner().invoke(app, ["predict", str(adapter), str(rows), "--out", str(out)])
    assert result.exit_code == 2
    assert "row 2: text must be a non-empty" in result.stderr
    assert not out.exists()
    skipping = ["--on-bad-rows", "skip", "--out", str(out)]
    result = CliRunner().invoke(app, ["predict", str(adapter), str(rows), *skipping])
    assert result.exit_code == 0
    assert "1 of 2 rows have an `error` and no score" in result.stderr
    good, bad = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert (set(good), set(bad)) == ({"text", "score", "unsafe"}, {"text", "error"})
    nowhere = ["--out", str(tmp_path / "nowhere" / "scored.jsonl")]
    result = CliRunner().invoke(app, ["predict", str(adapter), str(rows), *nowhere])
    assert result.exit_code == 2
    assert f"{tmp_path / 'nowhere'} is no folder; make it" in result.stderr
    rows.write_text("\n\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["predict", str(adapter), str(rows)])
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{rows}: 0 rows" in result.stderr
    result = CliRunner().invoke(app, ["predict", str(adapter), "-"], input="")
    assert "standard input: 0 rows" in result.stderr
    assert f"{tmp_path}: is a folder; name the file" in _refuse("predict", adapter, tmp_path)
    assert f"is a run; name one of its adapters: {finished}/adapters/" in _refuse(
        "predict", finished, rows
    )
    result = CliRunner().invoke(app, ["predict", str(tmp_path), str(rows)])
    assert result.exit_code == 2
    assert "not an adapter exported by CoralX" in result.stderr


@pytest.mark.parametrize("kind", ["rows", "link", "fifo"])
def test_scores_take_the_place_of_no_rows_and_no_pipe(kind: str, tmp_path: Path) -> None:
    """Nor of a device, which is the same to the code."""
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text('{"text": "mine"}\n', encoding="utf-8")
    if kind == "fifo":
        os.mkfifo(out)
    elif kind == "link":
        out.symlink_to(rows)
    else:
        out = rows
    said = " ".join(_refuse("predict", "nowhere", rows, "--out", out).split())
    assert ("is no regular file" if kind == "fifo" else "holds the rows that are read") in said
    assert rows.read_text(encoding="utf-8") == '{"text": "mine"}\n'
    assert out.is_fifo() == (kind == "fifo")


@pytest.mark.parametrize("name", ["scored.csv", "scored.PARQUET"])
def test_json_lines_are_not_written_under_the_name_of_another_format(
    name: str, tmp_path: Path
) -> None:
    """Whoever reads such a file goes by its name."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "mine"}\n', encoding="utf-8")
    said = " ".join(_refuse("predict", "nowhere", rows, "--out", tmp_path / name).split())
    assert f"--out: JSON lines are written, got {name}; name a .jsonl file" in said


def test_rows_that_standard_input_comes_from_are_not_written_over(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "mine"}\n', encoding="utf-8")
    command = [sys.executable, "-m", "coralx", "predict", "nowhere", "-", "--out", str(rows)]
    with rows.open() as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2
    assert "holds the rows that are read" in done.stderr
    assert rows.read_text(encoding="utf-8") == '{"text": "mine"}\n'


@pytest.mark.parametrize(
    ("rows", "closed", "message"),
    [
        ("-", 0, "standard input is closed; name a file of rows"),
        ("{rows}", 1, "standard output is closed; name a file to write with --out"),
    ],
)
def test_a_closed_stream_is_told(rows: str, closed: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "mine"}\n', encoding="utf-8")
    command = [sys.executable, "-m", "coralx", "predict", "nowhere", rows.format(rows=path)]
    done = subprocess.run(
        command,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        preexec_fn=lambda: os.close(closed),
    )
    assert done.returncode == 2
    assert done.stderr == f"coralx: {message}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["--version"]])
def test_what_cannot_be_written_is_told(arguments: list[str], tmp_path: Path) -> None:
    """A file that may hold nothing stands for a full disk."""
    with (tmp_path / "shown").open("w", encoding="utf-8") as shown:
        done = subprocess.run(
            [sys.executable, "-m", "coralx", *arguments],
            stdout=shown,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )
    assert done.returncode == 2
    assert done.stderr.startswith("coralx: [Errno")
    assert "Traceback" not in done.stderr


def _interrupt(arguments: list[str], awaited: str, kind: signal.Signals) -> tuple[int, str]:
    """Run until a line of stdout holds `awaited`, send the signal, give exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coralx", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if awaited in line:
            break
    process.send_signal(kind)
    _, said = process.communicate(timeout=LIMIT)
    return process.returncode, said


def test_an_interrupted_run_says_how_to_go_on_and_does(
    job: Path, finished: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = ["run", str(job / "config.yaml"), "--out", str(folder)]
    code, said = _interrupt(arguments, "short:", signal.SIGINT)
    assert code == 130
    assert f"coralx resume {folder}" in said
    assert "Traceback" not in said
    assert "Efficiency ratio" in _show("resume", folder)
    again = json.loads(_show("report", folder, "--json"))
    assert again["finished"] is True
    assert again["funnel"] == summary["funnel"]
    assert [m["genome"] for m in again["front"]] == [m["genome"] for m in summary["front"]]
    for one, other in zip(again["front"], summary["front"], strict=True):
        assert one["objectives"] == pytest.approx(other["objectives"], abs=1e-6)
    shutil.rmtree(folder)


def test_sigterm_before_training_leaves_nothing_behind(job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ["run", str(job / "config.yaml"), "--out", str(folder)]
    code, said = _interrupt(arguments, "run folder", signal.SIGTERM)
    assert code == 130
    assert "nothing was written" in said
    assert not folder.exists()
