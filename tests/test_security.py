"""What comes from outside stays data: no code of models or settings runs, no text becomes markup,
no path leads out."""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from transformers import AutoConfig, AutoModelForSequenceClassification

from coralx.checkpoint_files import checkpoint_path
from coralx.config import Config, load_config
from coralx.errors import CheckpointError, ConfigError, DataError, ModelError, StoreError
from coralx.records import Generation, Interval, Job, Stop, TestResult, TrainingResult
from coralx.report.page import render_page, write_report
from coralx.runs.running import resume_run
from coralx.runs.watcher import Watcher
from coralx.search.evolution import Evolution
from coralx.store import History, Store, read_history

SOURCE = Path(__file__).parents[1] / "src" / "coralx"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

MARK = "injected-by-data"
ATTACKS = (
    f"<script>document.title='{MARK}'</script>",
    f"</script><script>document.title='{MARK}'</script>",
    f"</title></style></textarea><img src=x onerror=\"document.title='{MARK}'\">",
    f'" onmouseover="document.title=\'{MARK}\'" autofocus onfocus="document.title=\'{MARK}\'" x="',
    f"<svg onload=document.title='{MARK}'>",
    f"<!--<script>document.title='{MARK}'//",
    f"<a href=\"javascript:document.title='{MARK}'\">x</a>",
    f"\u2028';document.title='{MARK}';//",
)


class _Attacker:
    """Every text of a run replaced by the next attack."""

    def __init__(self) -> None:
        self._count = 0
        self._names: dict[str, str] = {}

    def text(self) -> str:
        self._count += 1
        return f"{ATTACKS[self._count % len(ATTACKS)]}{self._count}"

    def rename(self, name: str) -> str:
        return self._names.setdefault(name, self.text())


def _train(job: Job, place: int, spoil: bool) -> TrainingResult:
    genome = job.genomes[place]
    skill = 0.6 + int(genome.id, 16) % 1000 / 4000
    stop = Stop(gate="auroc", value=0.5, limit=0.55, reason=ATTACKS[0]) if spoil else None
    return job.result(
        place,
        objectives={"task_skill": skill, "memory": 1e6 * genome.lora_cfg.r},
        details={"threshold": 0.5, **{f"auroc/task/{text}": skill for text in ATTACKS}},
        stopped=stop,
        checkpoint=f"{genome.id}/{job.stage.name}",
    )


def _hostile_history() -> History:
    """A run of two generations in which every name, reason, path and task is an attack."""
    settings = {"objectives": ["task_skill", "memory"], "evolution": {"generations": 2}}
    evolution = Evolution(load_config(settings))
    while not evolution.finished:
        for job in evolution.ask(10):
            for place in range(len(job.genomes)):
                evolution.tell(_train(job, place, spoil=False))
    attacker = _Attacker()
    results = [_attack(result, attacker, i % 5 == 4) for i, result in enumerate(evolution.results)]
    front = tuple(attacker.rename(name) for name in evolution.closed[-1].front)
    generations = [
        Generation.model_validate(
            {
                **dict(generation),
                "front": tuple(map(attacker.rename, generation.front)),
                "population": tuple(map(attacker.rename, generation.population)),
            }
        )
        for generation in evolution.closed
    ]
    figure = Interval(value=0.7, low=0.6, high=0.8)
    own = f"mine:{ATTACKS[1]}"
    tests = [
        TestResult(
            genome=name,
            stage="S3_finisher",
            objectives={"task_skill": figure, own: figure},
            details={f"auroc/task/{ATTACKS[2]}": figure},
            attack_threshold=0.5,
        )
        for name in front
    ]
    config = load_config(
        {
            "base_model": ATTACKS[0],
            "objectives": ["task_skill", "memory", own],
            "data": {"train": f"/data/{ATTACKS[1]}.csv", "text_column": ATTACKS[2]},
            "space": {"r": {"kind": "choice", "values": [2]}, ATTACKS[3]: _choice(*ATTACKS)},
        },
        recorded=True,
    )
    facts: dict[str, Any] = {
        "machine": ATTACKS[1],
        "tasks": list(ATTACKS),
        "started": ATTACKS[2],
        "versions": {ATTACKS[4]: ATTACKS[5]},
        "rows": {ATTACKS[6]: 3},
        "left_out": {ATTACKS[3]: 2},
        "classes": {"validation": {"unsafe": 99, "safe": 99}},
        "missing_classes": {"validation": {ATTACKS[1]: ["safe"]}},
        "task_classes": {"validation": {name: {"unsafe": 1, "safe": 9} for name in ATTACKS}},
        "steps_per_epoch": 10,
    }
    return History(
        config=config,
        facts=facts,
        results=results,
        generations=generations,
        tests=tests,
        seconds=1.0,
        finished=True,
    )


def _choice(*values: str) -> dict[str, Any]:
    return {"kind": "choice", "values": list(values)}


def _attack(result: TrainingResult, attacker: _Attacker, stop: bool) -> TrainingResult:
    genome = BaseModel.model_copy(  # unchecked
        result.genome,
        update={
            "id": attacker.rename(result.genome.id),
            "parents": tuple(map(attacker.rename, result.genome.parents)),
            "extra": {attacker.text(): attacker.text()},
        },
    )
    reason = Stop(gate="auroc", value=0.5, limit=0.55, reason=attacker.text())
    return result.model_copy(update={"genome": genome, "stopped": reason if stop else None})


def _open(page: Path) -> str:
    """The page as the browser has it after its scripts have run."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--virtual-time-budget=4000",
            f"--user-data-dir={page.parent / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


class _Dom(HTMLParser):
    """What an attack would leave in a page: a new title, handlers of events, links to scripts,
    scripts. Of those that are there all that is data (JSON) is left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.title, self._tag = text, "", ""
        self.risks: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = "data" if ("type", "application/json") in attrs else tag
        if self._tag == "script":
            self.scripts.append("")
        for name, value in attrs:
            if (
                name.startswith("on")
                or (value or "").startswith("javascript:")
                or (tag, value) == ("img", "x")
            ):
                self.risks.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        if self._tag == "title" and not self.title:
            self.title = data
        if self._tag == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""


@pytest.mark.parametrize("attack", ATTACKS[:5] + ATTACKS[6:7])
def test_a_page_that_is_read_shows_an_attack(attack: str) -> None:
    """Without this, the next test could pass for want of a parser that sees any."""
    dom = _Dom(f'<title>plain</title><p title="{attack}">{attack}</p>')
    assert dom.risks or dom.scripts


def test_no_text_of_a_run_becomes_markup_in_the_report() -> None:
    """Without a browser, which not every machine has."""
    dom = _Dom(render_page(_hostile_history()))
    assert dom.title.startswith(f"CoralX report: {ATTACKS[0]}")
    assert dom.risks == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', dom.text)
    assert policy
    marks = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in dom.scripts]
    assert len(marks) == 2, "the page's own, and no other"
    assert all(f"'sha256-{mark}'" in html.unescape(policy[1]) for mark in marks)
    assert "&lt;img src=x onerror=" in dom.text, "the attacks are there, as text"


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (apt: chromium)")


@needs_browser
def test_the_browser_shows_an_attack_that_works(tmp_path: Path) -> None:
    """Without this, the next test could pass for want of a working browser."""
    page = tmp_path / "page.html"
    page.write_text(f"<title>plain</title><p>{ATTACKS[0]}</p>", encoding="utf-8")
    assert _Dom(_open(page)).title == MARK


@needs_browser
@pytest.mark.parametrize("policy", [True, False], ids=["as written", "without content policy"])
def test_no_text_of_a_run_becomes_a_script_in_the_report(tmp_path: Path, policy: bool) -> None:
    """Escaping alone must do; the content policy is the second wall."""
    page = tmp_path / "report.html"
    write_report(_hostile_history(), page)
    if not policy:
        text = page.read_text(encoding="utf-8")
        bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        assert bare != text
        page.write_text(bare, encoding="utf-8")
    dom = _Dom(_open(page))
    assert "js-plotly-plot" in dom.text, "the page's own scripts have run"
    assert dom.title.startswith(f"CoralX report: {ATTACKS[0]}")
    assert dom.risks == []
    assert "&lt;img src=x onerror=" in dom.text, "the attacks are there, as text"


# A model that asks for its own code.

CODE = """
from pathlib import Path
Path({witness!r}).write_text("the model's code was run")
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
class OwnConfig(BertConfig):
    model_type = {kind!r}
class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def model_with_code(tmp_path: Path) -> tuple[Path, Path]:
    """A folder that asks transformers to run its code, and the file that the code would write."""
    folder, witness = tmp_path / "model", tmp_path / "witness"
    config = AutoConfig.for_model(
        "bert", vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_labels=1,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    own = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForSequenceClassification": "own.OwnModel",
        "AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"],
    }
    path = folder / "config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "auto_map": own}), encoding="utf-8")
    settings = json.dumps({"tokenizer_class": "OwnTokenizer", "auto_map": own})
    (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    (folder / "own.py").write_text(CODE.format(witness=str(witness), kind="bert"), encoding="utf-8")
    return folder, witness


def _set_type(folder: Path, kind: str) -> None:
    path = folder / "config.json"
    facts = json.loads(path.read_text(encoding="utf-8")) | {"model_type": kind}
    path.write_text(json.dumps(facts), encoding="utf-8")


@pytest.mark.parametrize("kind", ["bert", "own-type"])
def test_code_in_a_models_folder_is_not_run(
    model_with_code: tuple[Path, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coralx.train.backbone import Backbone

    def ask(*_: object) -> str:
        raise AssertionError("nobody is asked in the middle of a run")

    monkeypatch.setattr("builtins.input", ask)
    folder, witness = model_with_code
    _set_type(folder, kind)
    with pytest.raises(ModelError):
        Backbone(str(folder), torch.device("cpu"), torch.float32)
    assert not witness.exists()


def test_code_in_a_models_folder_is_run_where_it_is_asked_for_by_name(
    model_with_code: tuple[Path, Path],
) -> None:
    from coralx.train.pretrained import load_classifier

    folder, witness = model_with_code
    load_classifier(str(folder), trust_remote_code=True)
    assert witness.exists()


def test_only_the_settings_of_a_run_can_ask_for_code() -> None:
    assert Config().trust_remote_code is False
    assert load_config({"trust_remote_code": True}).trust_remote_code is True
    for value in ("please", 7, None):
        with pytest.raises(ConfigError, match="trust_remote_code"):
            load_config({"trust_remote_code": value})


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch {witness}']",
        "a: !!python/object/new:subprocess.Popen [['touch', '{witness}']]",
        "a: !!python/name:os.system",
        "a: !!python/module:antigravity",
    ],
)
def test_settings_are_data(tmp_path: Path, text: str) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "job.yaml"
    path.write_text(text.replace("{witness}", str(witness)), encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(path)
    assert not witness.exists()


def test_own_objectives_are_imported_when_a_run_loads_them_and_not_before(tmp_path: Path) -> None:
    """`module:function` is the one place where settings name code: it must be importable already,
    and reading or planning imports nothing."""
    import sys

    assert load_config({"objectives": ["antigravity:fly"]}).objectives == ("antigravity:fly",)
    assert "antigravity" not in sys.modules


def test_no_module_evaluates_text_or_reads_pickles() -> None:
    """Beside ruff's S rules, which a `noqa` could silence."""
    forbidden = {"eval", "exec", "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, path
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert node.module not in forbidden, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "yaml.load":
                pytest.fail(f"{path}: use coralx.settings.file or yaml.safe_load")


def test_no_rule_of_security_is_silenced_in_the_source() -> None:
    """S101 alone: an assert that tells the type checker what is known."""
    import tomllib

    lint = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]
    assert "S" in lint["lint"]["select"]
    assert not [rule for rule in lint["lint"]["ignore"] if rule.startswith("S")]
    assert not [place for place in lint["lint"]["per-file-ignores"] if "src" in place]
    for path in SOURCE.rglob("*.py"):
        silenced = re.findall(r"# noqa(?::\s*([A-Z0-9, ]+))?", path.read_text(encoding="utf-8"))
        assert all(rules and not re.search(r"S(?!101|IM)", rules) for rules in silenced), path


@pytest.mark.parametrize("asked", [False, True])
def test_predict_trusts_code_of_a_base_model_only_where_asked(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from coralx.cli import app
    from coralx.train import predict

    seen: list[Any] = []

    def refuse(*arguments: Any) -> None:
        seen.extend(arguments)
        raise ModelError("not needed here")

    monkeypatch.setattr(predict, "Predictor", refuse)
    (tmp_path / "rows.jsonl").write_text("{}", encoding="utf-8")
    arguments = ["predict", str(tmp_path), str(tmp_path / "rows.jsonl")]
    result = CliRunner().invoke(app, arguments + ["--trust-remote-code"] * asked)
    assert (result.exit_code, seen[2]) == (2, asked)


@pytest.fixture
def run_that_asks_for_code(model_with_code: tuple[Path, Path], tmp_path: Path) -> Path:
    """A run from elsewhere, which was allowed to run the code of its model."""
    folder = tmp_path / "run"
    config = load_config({"base_model": str(model_with_code[0]), "trust_remote_code": True})
    job = Evolution(config).ask(1)[0]
    name = f"{job.genomes[0].id}/{job.stage.name}-0123456789abcdef"
    result = job.result(0, details={"served_threshold": 0.5}, checkpoint=name)
    store = Store(folder)
    store.append("run_started", {"config": config.model_dump(mode="json"), "images": False})
    store.append("job", job)
    store.append("results", [result])
    store.close()
    return folder


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("command", ["export", "reproduce"])
def test_a_run_from_elsewhere_has_code_of_its_model_run_only_where_asked(
    command: str,
    asked: bool,
    model_with_code: tuple[Path, Path],
    run_that_asks_for_code: Path,
    tmp_path: Path,
) -> None:
    from typer.testing import CliRunner

    from coralx.cli import app

    genome = read_history(run_that_asks_for_code).results[0].genome.id
    arguments = [command, str(run_that_asks_for_code), genome]
    arguments += [str(tmp_path / "adapter")] * (command == "export")
    done = CliRunner().invoke(app, arguments + ["--trust-remote-code"] * asked)
    assert done.exit_code == 2, "the code makes no model"
    assert model_with_code[1].exists() == asked
    assert ("--trust-remote-code" in done.stderr) == (not asked)
    assert ("trust_remote_code: true: code in the folder of" in done.stderr) == asked


def test_a_resume_says_that_code_of_the_model_runs(run_that_asks_for_code: Path) -> None:
    said: list[str] = []

    class Listener(Watcher):
        def say(self, message: str) -> None:
            said.append(message)

    with pytest.raises(ModelError):
        resume_run(run_that_asks_for_code, Listener())
    assert said[0].startswith("trust_remote_code: true: code in the folder of ")


@pytest.mark.parametrize(
    "place", ["../x.png", "/etc/passwd", "a/../../x.png", "link.png", "in/x.png"]
)
def test_pictures_of_rows_to_predict_stay_in_the_folder(tmp_path: Path, place: str) -> None:
    from coralx.train.rows import read_image

    folder = tmp_path / "rows"
    folder.mkdir()
    (tmp_path / "x.png").write_bytes(b"")
    (folder / "link.png").symlink_to(tmp_path / "x.png")
    (folder / "in").symlink_to(tmp_path)
    with pytest.raises(DataError, match="lies outside the data file's folder"):
        read_image(place, folder)


@pytest.mark.parametrize(
    "name",
    [
        "/home/me/models/bert-0123456789abcdef",
        "../../models/bert-0123456789abcdef",
        "models/bert",
        "models/../bert-0123456789abcdef",
        "a/b/S0-0123456789abcdef",
        "../S0-0123456789abcdef",
        "a/S0-0123456789abcdef\n",
        "a/S0-0123456789abcdef\0",
        "",
    ],
)
def test_a_checkpoint_that_a_journal_names_lies_in_the_runs_folder(
    name: str, tmp_path: Path
) -> None:
    """Files of that name would be overwritten by an export, and removed by a resume."""
    from coralx.runs.repair import checkpoint_is_whole
    from coralx.train.checkpoint import load_checkpoint

    with pytest.raises(StoreError, match="a checkpoint is called GENOME/STAGE-") as caught:
        load_checkpoint(tmp_path, name)
    assert not isinstance(caught.value, CheckpointError), (
        "or it would be trained again, and written"
    )
    with pytest.raises(StoreError, match="a checkpoint is called GENOME/STAGE-"):
        checkpoint_is_whole(tmp_path, name)


def test_names_of_stages_may_hold_dots_and_dashes(tmp_path: Path) -> None:
    name = "-a.b_C/..S0.x-y-0123456789abcdef"
    assert checkpoint_path(tmp_path, name) == tmp_path / f"{name}.safetensors"


def test_texts_with_half_a_character_cost_no_report(tmp_path: Path) -> None:
    """As of a folder that is no UTF-8, or of genes that came by Python."""
    from typer.testing import CliRunner

    from coralx.cli import app

    half = "caf\udce9"
    settings = {
        "data": {"train": f"/{half}/a.jsonl"},
        "space": {
            "learning_rate": {"kind": "float", "low": 0.001, "high": 0.002},
            half: _choice(half),
        },
    }
    config = load_config(settings, recorded=True)
    job = Evolution(config).ask(1)[0]
    store = Store(tmp_path)
    facts = {"config": config.model_dump(mode="json"), "left_out": {f"/{half}/a.jsonl": 2}}
    store.append("run_started", facts | {"machine": half})
    store.append("results", [job.result(place) for place in range(len(job.genomes))])
    store.close()
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "caf\\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")
    written = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert written["left_out"] == {f"/{half}/a.jsonl": 2}
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--json"])
    assert json.loads(done.stdout) == written


def test_what_an_error_says_does_not_steer_the_terminal(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from coralx.cli import app

    path = tmp_path / "job.yaml"
    path.write_text('"\\e]0;mine\\a\\e[31mX\\rY": 1\nseed: x', encoding="utf-8")
    done = CliRunner().invoke(app, ["plan", str(path)])
    assert done.exit_code == 2
    assert "\ufffd]0;mine\ufffd\ufffd[31mX\ufffdY: unknown key" in done.stderr
    assert not set(done.stderr) & set("\x1b\x07\r")
    assert "problem(s) in the configuration\n  - " in done.stderr
