"""Runs from start to end: here, one in which nobody is left."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from coralx.cli.progress import View
from coralx.cli.train import _print_next
from coralx.config import PREFIX_FOLDER, load_config
from coralx.errors import ConfigError, DataError, ExtinctError, ModelError, StoreError
from coralx.lock import LOCK
from coralx.records import Genome, Job, LoRAConfig, Start, TrainingResult
from coralx.runs import running
from coralx.runs.exporting import export_genome
from coralx.runs.running import resume_run, start_run
from coralx.runs.watcher import Watcher
from coralx.search.selection import front
from coralx.store import JOURNAL, History, Store, read_history
from coralx.summary import summarize
from coralx.train.workbench import Workbench

# No stage of one step reaches an AUROC of 1.
DOOMED = {
    "vision_tower": None,
    "data": {"image_column": None, "max_rows": 64, "max_tokens": 16},
    "evolution": {"population": 2, "generations": 1},
    "training": {
        "device": "cpu",
        "threads": 1,
        "attack_rows": 0,
        "evaluation_batch": 16,
        "prefix_memory_gb": 0,
    },
    "hyperband": {
        "grow_rank_at": None,
        "training_stages": [
            {
                "name": "only",
                "epoch_budget": 0.1,
                "data_percentage": 50,
                "survival_rate": 1,
                "min_auroc": 1.0,
            }
        ],
    },
}


SOUND = {
    **DOOMED,
    "hyperband": {
        "grow_rank_at": None,
        "training_stages": [
            {"name": "only", "epoch_budget": 0.1, "data_percentage": 50, "survival_rate": 0.5}
        ],
    },
}


# Two stages by text alone; no adapter of one step is as good as the third asks for.
BLIND = {
    **DOOMED,
    "vision_tower": "efficientnet-lite0",
    "data": {"max_rows": 40, "max_tokens": 8},
    "hyperband": {
        "grow_rank_at": None,
        "cross_modal_proxy": True,
        "training_stages": [
            {"name": "S0", "epoch_budget": 0.1, "data_percentage": 50, "survival_rate": 1},
            {"name": "S1", "epoch_budget": 0.1, "data_percentage": 50, "survival_rate": 0.5},
            {
                "name": "S2",
                "epoch_budget": 0.1,
                "data_percentage": 50,
                "survival_rate": 1,
                "min_auroc": 1.0,
            },
        ],
    },
}


class Listener(Watcher):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the sound settings, to be copied."""
    directory = tmp_path_factory.mktemp("sound") / "run"
    start_run(load_config(SOUND), directory, Watcher())
    return directory


def cut(finished: Path, directory: Path, records: int) -> None:
    """A copy of the run whose journal ends after so many records."""
    shutil.copytree(finished, directory)
    journal = directory / JOURNAL
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:records]))


def test_rows_left_out_or_cut_are_told(tmp_path: Path) -> None:
    rows = [{"text": f"text no {i}", "label": i % 2} for i in range(40)]
    rows.append({"text": "", "label": 0})
    path, directory, listener = tmp_path / "rows.jsonl", tmp_path / "run", Listener()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(path), "on_bad_rows": "skip", "max_tokens": 4}
    history = start_run(load_config(SOUND | {"data": data}), directory, listener)
    warning = f"warning: {path}: 1 of 41 rows left out: row 41: text must be a non-empty string"
    assert any(line.startswith(warning) for line in listener.said)
    shares = "24 of 24 train, 8 of 8 validation, 8 of 8 test"
    assert f"warning: texts longer than data.max_tokens (4) are cut: {shares}" in listener.said
    told = [line for line in listener.said if "as the model reads them" in line]
    assert [line[:25] for line in told] == [
        "warning: 8 of 8 validatio",
        "warning: 8 of 8 test rows",
    ]
    assert history.facts["reading"]["cut"] == {"train": 24, "validation": 8, "test": 8}
    assert history.facts["left_out"] == {str(path): 1}


def test_rows_that_stages_choose_by_are_on_record(finished: Path) -> None:
    known = json.loads((finished / "summary.json").read_text(encoding="utf-8"))
    assert known["stage_classes"] == read_history(finished).facts["stage_classes"]
    (counts,) = known["stage_classes"].values()
    assert 2 * sum(counts.values()) == pytest.approx(known["rows"]["validation"], abs=4)


def test_a_run_whose_space_is_exhausted_says_so(tmp_path: Path) -> None:
    genes = {"r": [2, 4], "alpha": [8], "dropout": [0.0], "target_modules": [["query"]]}
    genes |= {"layers": [1], "learning_rate": [0.001], "weight_decay": [0.0], "use_rslora": [False]}
    space = {name: {"kind": "choice", "values": values} for name, values in genes.items()}
    settings = SOUND | {"space": space, "evolution": {"population": 2, "generations": 3}}
    listener = Listener()
    start_run(load_config(settings), tmp_path / "run", listener)
    told = [line for line in listener.said if "the space holds no genome" in line]
    assert len(told) == 1
    assert "ended after generation 1 of 3" in told[0]


def test_a_run_that_could_select_nobody_is_refused_before_it_trains(tmp_path: Path) -> None:
    config = load_config({**SOUND, "objectives": ["cross_modal_gain", "safety"]})
    said = r"objectives: one at least must be measurable.*validation rows with a picture; safety: "
    with pytest.raises(ConfigError, match=said):
        start_run(config, tmp_path / "run", Watcher())
    assert not (tmp_path / "run").exists()
    with contextlib.closing(Store(tmp_path / "run")) as store:  # as one was begun before
        store.append("run_started", {"config": config.model_dump(mode="json")})
    with pytest.raises(ConfigError, match=said):
        resume_run(tmp_path / "run", Watcher())


def test_a_run_that_can_select_nobody_and_has_results_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config({**SOUND, "objectives": ["cross_modal_gain"]})
    monkeypatch.setattr(Workbench, "check_objectives", lambda _: None)  # as there was none once
    start_run(config, tmp_path / "whole", Watcher())
    monkeypatch.undo()
    cut(tmp_path / "whole", tmp_path / "run", 3)
    assert resume_run(tmp_path / "run", Watcher()).finished


def test_a_run_begun_with_layers_beyond_the_base_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {"layers": {"kind": "choice", "values": [6, 7]}}
    config = load_config(SOUND | {"space": layers})
    with pytest.raises(ModelError, match="has 6 blocks, got 7; name 6 or fewer"):
        start_run(config, tmp_path, Watcher())
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(running, "check_layers", lambda *_: None)  # as there was none once
    start_run(config, tmp_path, Watcher())
    monkeypatch.undo()
    journal = tmp_path / JOURNAL
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    assert resume_run(tmp_path, Watcher()).finished


def test_a_run_that_dies_out_leaves_a_report_of_what_was_tried(tmp_path: Path) -> None:
    directory, listener = tmp_path / "run", Listener()
    with pytest.raises(ExtinctError):
        start_run(load_config(DOOMED), directory, listener)
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    assert summary["front"] == []
    assert [item["stage"] for item in summary["stopped"]] == ["only", "only"]
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert summary["stopped"][0]["reason"].split(" < ")[0] in page
    assert any(str(directory / "report.html") in line for line in listener.said)
    assert not (directory / PREFIX_FOLDER).exists()
    with pytest.raises(ExtinctError):  # nothing to go on with, and no other error
        resume_run(directory, listener)


@pytest.mark.parametrize("promotion", ["halving", "asha"])
def test_a_run_that_dies_out_ends_as_tidily_as_any(promotion: str, tmp_path: Path) -> None:
    """Its summary is of its whole journal, and what nobody needs any more is not on the disk."""
    only = DOOMED["hyperband"]["training_stages"][0]
    stages = [{**only, "name": "first", "min_auroc": None}, only]
    settings = {
        **DOOMED,
        "evolution": {"population": 4, "generations": 2},
        "storage": {"checkpoints_gb": 0},
        "hyperband": {
            "grow_rank_at": None,
            "promotion": promotion,
            "training_stages": stages,
        },
    }
    with pytest.raises(ExtinctError):
        start_run(load_config(settings), tmp_path, Watcher())
    history = read_history(tmp_path)
    written = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(summarize(history)))
    left = {path.parent.name + "/" + path.stem for path in (tmp_path / "checkpoints").glob("*/*")}
    best = front(history.results, history.config.objectives)
    assert {result.stage for result in best} == {"first"}
    assert left == {result.checkpoint for result in best}


def test_a_resumed_run_reports_what_it_trains_itself(tmp_path: Path, finished: Path) -> None:
    directory, lines = tmp_path / "run", list[str]()
    cut(finished, directory, 3)  # the start, the only job, its results
    view = View(load_config(SOUND), lines.append)
    resume_run(directory, view)
    view.flush()
    names = [member.genome for member in read_history(directory).tests]
    at = lines.index(f"measuring the front of {len(names)} on the test rows") + 1
    assert lines[at : at + len(names)] == [
        f"measuring member {place} of {len(names)}: genome {name}"
        for place, name in enumerate(names, start=1)
    ]
    assert not [line for line in lines if line.startswith("generation")]


def test_a_resume_reads_its_journal_once_and_again_at_the_end(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, readings = tmp_path / "run", list[Path]()
    cut(finished, directory, 3)

    def read(path: Path) -> History:
        readings.append(path)
        return read_history(path)

    monkeypatch.setattr(running, "read_history", read)
    assert resume_run(directory, Watcher()).finished
    assert len(readings) == 2


def write_rows(path: Path, labels: list[int], tag: str = "text") -> str:
    rows = [{"text": f"{tag} no {i}", "label": label} for i, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_run_is_not_resumed_on_other_rows_than_it_began_with(tmp_path: Path) -> None:
    """Shares are set aside from the file as it is: one label corrected, and half of what is
    measured was trained on."""
    path, labels = tmp_path / "rows.jsonl", [0, 1] * 20
    config = load_config(SOUND | {"data": {"train": write_rows(path, labels), "max_tokens": 8}})
    start_run(config, tmp_path / "whole", Watcher())
    cut(tmp_path / "whole", tmp_path / "run", 3)
    journal = (tmp_path / "run" / JOURNAL).read_bytes()
    write_rows(path, [1, *labels[1:]])
    with pytest.raises(DataError) as refused:
        resume_run(tmp_path / "run", Watcher())
    said = str(refused.value)
    assert f"{path}: a run is measured on the rows that it began with" in said
    assert "others now: validation, test (a share" in said
    assert "Restore the files as they were, go on with the version of CoralX that the run" in said
    assert (tmp_path / "run" / JOURNAL).read_bytes() == journal
    assert resume_run(tmp_path / "whole", Watcher()).finished  # measures nothing anew
    write_rows(path, labels)
    listener = Listener()
    assert resume_run(tmp_path / "run", listener).finished
    assert not [line for line in listener.said if "of other rows" in line]


def test_other_training_rows_alone_are_told(tmp_path: Path) -> None:
    files = {
        name: write_rows(tmp_path / f"{name}.jsonl", [0, 1] * 8, name)
        for name in ("train", "validation", "test")
    }
    config = load_config(SOUND | {"data": files | {"max_tokens": 8}})
    start_run(config, tmp_path / "whole", Watcher())
    cut(tmp_path / "whole", tmp_path / "run", 3)
    write_rows(tmp_path / "train.jsonl", [0, 1] * 9, "train")
    listener = Listener()
    history = resume_run(tmp_path / "run", listener)
    assert sum("results from here on are of other rows" in line for line in listener.said) == 1
    assert history.facts["fingerprints"]["test"] == history.resumed[0]["fingerprints"]["test"]
    genome, directory = history.results[-1].genome.id, tmp_path / "run"
    assert history.results[-1].checkpoint
    next((directory / "checkpoints").rglob(f"*{history.results[-1].checkpoint}*")).unlink()
    listener.said.clear()
    export_genome(directory, genome, tmp_path / "adapter", listener)
    assert any("may not be the same, because of other train rows" in s for s in listener.said)


def test_of_a_run_of_before_rows_had_fingerprints_their_numbers_are_compared(
    tmp_path: Path,
) -> None:
    """Until a sitting has recorded what the rows are."""
    path, labels = tmp_path / "rows.jsonl", [0, 1] * 20
    config = load_config(SOUND | {"data": {"train": write_rows(path, labels), "max_tokens": 8}})
    start_run(config, tmp_path / "whole", Watcher())
    history = read_history(tmp_path / "whole")
    with contextlib.closing(Store(tmp_path / "run")) as store:
        store.append("run_started", {k: v for k, v in history.facts.items() if k != "fingerprints"})
    write_rows(path, labels * 2)
    with pytest.raises(DataError, match="others now: validation, test"):
        resume_run(tmp_path / "run", Watcher())
    write_rows(path, [1, 0, *labels[2:]])
    listener = Listener()
    history = resume_run(tmp_path / "run", listener)
    assert sum("before rows had fingerprints" in line for line in listener.said) == 1
    cut(tmp_path / "run", tmp_path / "again", 2)
    write_rows(path, labels)
    with pytest.raises(DataError, match="others now: validation"):
        resume_run(tmp_path / "again", Watcher())
    assert history.finished


def test_half_filled_files_of_a_killed_sitting_are_removed_by_the_next(
    tmp_path: Path, finished: Path
) -> None:
    directory, left = tmp_path / "run", list[Path]()
    cut(finished, directory, 2)
    with (directory / JOURNAL).open("ab") as journal:
        journal.write(b"torn")
    (directory / PREFIX_FOLDER).mkdir()
    for name in ("key.bin", "key.1.part"):
        (directory / PREFIX_FOLDER / name).write_bytes(b"")

    class Looker(Listener):
        def begin(self, evolution: object) -> None:
            left.extend((directory / PREFIX_FOLDER).iterdir())

    looker = Looker()
    resume_run(directory, looker)
    assert [path.name for path in left] == ["key.bin"]
    assert any("half a record (4 bytes)" in line for line in looker.said)


def test_a_genome_last_scored_by_its_text_alone_is_not_exported(tmp_path: Path) -> None:
    """Its threshold and scaling would be used on pictures that they know nothing of."""
    config = load_config(BLIND)
    genome = Genome(lora_cfg=LoRAConfig())
    job = Job(
        id="j",
        generation=0,
        stage=config.hyperband.stages[0],
        stage_index=0,
        genomes=(genome,),
        starts=(Start(),),
        text_only=True,
    )
    result = TrainingResult(
        job="j",
        genome=genome,
        generation=0,
        stage="S0",
        stage_index=0,
        lora_cfg=genome.lora_cfg,
        checkpoint="any",
        details={"threshold": 0.5},
    )
    with contextlib.closing(Store(tmp_path / "run")) as store:
        store.append("run_started", {"config": config.model_dump(mode="json"), "images": True})
        store.append("job", job)
        store.append("results", [result])
    with pytest.raises(StoreError, match=r"no stage after S0.*by their text alone.*later stage"):
        export_genome(tmp_path / "run", genome.id, tmp_path / "adapter", Watcher())
    assert not (tmp_path / "adapter").exists()


def test_a_front_last_scored_by_its_text_alone_gets_no_adapters(tmp_path: Path) -> None:
    directory, listener = tmp_path / "run", Listener()
    history = start_run(load_config(BLIND), directory, listener)
    assert [line for line in listener.said if "front" in line] == [
        "the front went no further than S1, scored by text alone (hyperband.cross_modal_proxy): "
        "no adapters are written"
    ]
    assert history.finished
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    assert {member["stage"] for member in summary["front"]} == {"S1"}
    for member in summary["front"]:
        assert member["adapter"] is None
        assert member["test"] == member["test_details"] == {}
    resume_run(directory, listener)  # which writes what a front lacks
    assert not (directory / "adapters").exists()
    assert "no adapter" in (directory / "report.html").read_text(encoding="utf-8")
    console = Console(file=io.StringIO(), width=200)
    _print_next(console, directory, summary["front"])
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "coralx report" in printed
    assert "predict" not in printed
    assert "export" not in printed


def test_exporting_whole_weights_reads_no_rows(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, listener = shutil.copytree(finished, tmp_path / "run"), Listener()
    history = read_history(directory)
    genome = history.results[-1].genome.id
    with monkeypatch.context() as patch:
        patch.setattr("coralx.runs.opening.load_worker", None)
        export_genome(directory, genome, tmp_path / "adapter", listener)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    kept = next((directory / "checkpoints").rglob(f"*{history.results[-1].checkpoint}*"))
    kept.write_bytes(b"damaged")
    with contextlib.closing(Store(directory)):  # another process at work in the run
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
            export_genome(directory, genome, tmp_path / "again", listener)
        assert kept.read_bytes() == b"damaged"
    journal = (directory / JOURNAL).read_bytes()
    export_genome(directory, genome, tmp_path / "again", listener)
    assert any("training it again" in line for line in listener.said)
    again = tmp_path / "again" / "adapter_model.safetensors"
    assert again.read_bytes() == weights.read_bytes()
    assert (directory / JOURNAL).read_bytes() == journal
    left = {path.name for path in directory.iterdir()}
    assert not left & {LOCK, PREFIX_FOLDER}
