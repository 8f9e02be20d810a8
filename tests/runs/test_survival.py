"""Runs that meet what nights bring: kills, lost files, full and read-only disks, signals."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import kill_runs
import pytest
import yaml

from coralx.checkpoint_files import checkpoint_path
from coralx.config import PREFIX_FOLDER, load_config
from coralx.errors import CheckpointError, StoreError
from coralx.records import Progress, Start
from coralx.runs import opening
from coralx.runs.exporting import export_genome
from coralx.runs.repair import Mender
from coralx.runs.running import resume_run, start_run
from coralx.runs.watcher import Watcher
from coralx.store import JOURNAL, History, Store, has_begun, read_history
from coralx.train.checkpoint import is_stand_in, load_checkpoint
from coralx.train.worker import Worker

StopIn = Callable[[str, Path], list[Start]]
KILLS = 30
ONE_CORE = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # they fork


def test_a_run_killed_at_random_instants_ends_as_if_left_alone() -> None:
    """`scripts/kill_runs.py` says what is done and compared; `--kills 200` is the long form."""
    done = subprocess.run(
        [sys.executable, kill_runs.__file__, "--kills", str(KILLS), "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=600,
        env=ONE_CORE,
    )
    assert done.returncode == 0, done.stderr
    count = json.loads(done.stdout.splitlines()[-1])
    assert count["by time"] + count["inside a write"] == KILLS
    assert min(count.values()) > 0


@pytest.fixture(autouse=True)
def _share_worker(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model and rows are loaded once for all tests."""

    def lend(_config: object, directory: Path, _watcher: object) -> Worker:
        worker.bench.checkpoints = directory / "checkpoints"
        return worker

    monkeypatch.setattr(opening, "load_worker", lend)


class Stopper(Watcher):
    """Stops the run, as Ctrl-C does, in the first step of a job; remembers what was said."""

    def __init__(self, job: str = "") -> None:
        self.job = job
        self.said: list[str] = []
        self.trained: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def observe(self, progress: Progress) -> None:
        if progress.step == 1:
            self.trained.append(progress.job.id)
        if progress.job.id == self.job:
            raise KeyboardInterrupt


def stop_anew(job: str, directory: Path, worker: Worker) -> list[Start]:
    """A run stopped in that job; the starts of the job."""
    with pytest.raises(KeyboardInterrupt):
        start_run(worker.config, directory, Stopper(job))
    return list(read_history(directory).jobs[-1].starts)


@pytest.fixture(scope="module")
def stop_in(tmp_path_factory: pytest.TempPathFactory, worker: Worker) -> StopIn:
    """`stop_anew`, of which each test gets a copy."""
    made: dict[str, tuple[Path, list[Start]]] = {}

    def stop(job: str, directory: Path) -> list[Start]:
        if job not in made:
            first = tmp_path_factory.mktemp("stopped") / "run"
            made[job] = first, stop_anew(job, first, worker)
        shutil.copytree(made[job][0], directory)
        worker.bench.checkpoints = directory / "checkpoints"
        return made[job][1]

    return stop


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


LOSSES: dict[str, Callable[[Path], None]] = {"deleted": Path.unlink, "damaged": damage}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("job", "kind"), [("g0-short-1", "continue"), ("g1-first-0", "inherit")])
def test_a_lost_checkpoint_is_trained_again_with_a_warning_and_never_used(
    loss: str, job: str, kind: str, tmp_path: Path, whole: Path, stop_in: StopIn, worker: Worker
) -> None:
    """Named failures of today's PBT tools: checkpoint deleted before exploit; resume fails after
    losing a worker's disk. The run ends with the same bits as one that lost nothing."""
    directory = tmp_path / "run"
    start = stop_in(job, directory)[0]
    assert start.kind == kind
    assert start.checkpoint is not None
    LOSSES[loss](checkpoint_path(directory / "checkpoints", start.checkpoint))
    watcher = Stopper()
    resume_run(directory, watcher)
    warnings = [line for line in watcher.said if line.startswith("warning: checkpoint")]
    assert len(warnings) == 1
    assert start.checkpoint in warnings[0]
    history = read_history(directory)
    assert [repair.checkpoint for repair in history.repairs] == [start.checkpoint]
    assert history.repairs[0].identical
    assert history.repairs[0].steps > 0
    assert kill_runs.differences(whole, directory) == ["repairs"]


def test_a_folder_in_the_place_of_a_checkpoint_is_an_error_with_advice(
    tmp_path: Path, whole: Path, stop_in: StopIn
) -> None:
    """One that is needed; another's place is nobody's concern."""
    directory = tmp_path / "run"
    start = stop_in("g1-first-0", directory)[0]
    assert start.checkpoint is not None
    path = checkpoint_path(directory / "checkpoints", start.checkpoint)
    path.unlink()
    path.mkdir()
    path.with_name("other.safetensors").mkdir()
    with pytest.raises(StoreError, match="is a folder; move it away and resume"):
        resume_run(directory, Watcher())
    path.rmdir()
    resume_run(directory, Watcher())
    assert path.with_name("other.safetensors").is_dir()
    path.with_name("other.safetensors").rmdir()
    assert kill_runs.differences(whole, directory) == ["repairs"]


def test_both_lost_parents_of_a_merged_child_are_trained_again(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    evolution = kill_runs.CONFIG["evolution"] | {"crossover_weights": "ties"}
    config = load_config(kill_runs.CONFIG | {"evolution": evolution})
    monkeypatch.setattr(worker, "config", config)
    monkeypatch.setattr(worker.bench, "config", config)
    whole = start_run(config, tmp_path / "whole", Watcher())
    job = next(j for j in whole.jobs if any(start.kind == "merge" for start in j.starts))
    directory = tmp_path / "run"
    starts = stop_anew(job.id, directory, worker)
    lost = next(start.sources for start in starts if start.kind == "merge")
    for name in lost:
        checkpoint_path(directory / "checkpoints", name).unlink()
    resume_run(directory, Watcher())
    repairs = read_history(directory).repairs
    assert len(lost) == 2
    # One repair mends both where they were trained in one pack.
    assert {repair.checkpoint for repair in repairs} <= set(lost)
    assert repairs[0].identical
    assert kill_runs.differences(tmp_path / "whole", directory) == ["repairs"]


def test_repairing_one_of_a_pack_leaves_the_others_weights_as_they_are(
    tmp_path: Path, stop_in: StopIn, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere a repair comes to other bits; figures of a mate are of the weights it has."""
    directory = tmp_path / "run"
    stop_in("g1-first-0", directory)
    folder = directory / "checkpoints"
    there = [r for r in read_history(directory).results if r.checkpoint
             and checkpoint_path(folder, r.checkpoint).exists()]  # fmt: skip
    lost, mate = next((a, b) for a in there for b in there if a is not b and a.job == b.job)
    before = checkpoint_path(folder, mate.checkpoint or "").read_bytes()
    checkpoint_path(folder, lost.checkpoint or "").unlink()
    monkeypatch.setattr(worker.bench, "seed", worker.bench.seed + 1)
    monkeypatch.setattr(worker._trainer, "_ground", replace(worker._trainer._ground, seed=6))
    said: list[str] = []
    mender = Mender(directory, worker, say=said.append)
    mender.heal(lambda: load_checkpoint(folder, lost.checkpoint or ""))
    assert said[-1].endswith("trained again, but not to the same bits")
    assert is_stand_in(folder, lost.checkpoint or "")
    assert not is_stand_in(folder, mate.checkpoint or "")
    assert checkpoint_path(folder, mate.checkpoint or "").read_bytes() == before


def test_damage_that_two_jobs_met_is_repaired_once(
    tmp_path: Path, stop_in: StopIn, worker: Worker
) -> None:
    """On workers: both have failed before either is heard."""
    directory = tmp_path / "run"
    lost = stop_in("g1-first-0", directory)[0].checkpoint or ""
    path = checkpoint_path(directory / "checkpoints", lost)
    path.unlink()
    mender = Mender(directory, worker)

    def fail_first() -> Callable[[], str]:
        errors = [CheckpointError(lost, "is missing")]

        def take() -> str:
            if errors:
                raise errors.pop()
            return "done"

        return take

    assert mender.heal(fail_first()) == "done"
    written = path.stat().st_mtime_ns
    assert mender.heal(fail_first()) == "done"
    assert path.stat().st_mtime_ns == written

    def fail() -> str:
        raise CheckpointError(lost, "is damaged")

    with pytest.raises(StoreError, match=r"trained again and still: is damaged; check the disk"):
        mender.heal(fail)


def test_an_heir_never_gets_another_genomes_weights(
    tmp_path: Path, whole: Path, stop_in: StopIn
) -> None:
    """The named failure of today's PBT tools: exploit loads another trial's weights."""
    directory = tmp_path / "run"
    starts = stop_in("g1-first-0", directory)
    folder = directory / "checkpoints"
    mine = next(s.checkpoint for s in starts if s.checkpoint)
    other = next(p for p in folder.glob("*/*") if p != checkpoint_path(folder, mine))
    shutil.copy(other, checkpoint_path(folder, mine))
    watcher = Stopper()
    resume_run(directory, watcher)
    assert any("holds other weights than its name says" in line for line in watcher.said)
    assert kill_runs.differences(whole, directory) == ["repairs"]


def test_all_checkpoints_lost_is_survived(tmp_path: Path, whole: Path, stop_in: StopIn) -> None:
    """Resume after losing the machine that held the checkpoints: the journal is enough."""
    directory = tmp_path / "run"
    stop_in("g1-short-0", directory)
    shutil.rmtree(directory / "checkpoints")
    resume_run(directory, Stopper())
    assert set(kill_runs.differences(whole, directory)) == {"repairs"}


def test_what_the_final_figures_bring_back_is_no_more_than_was_there(
    tmp_path: Path, whole: Path, worker: Worker
) -> None:
    """A member of the front is trained again with its pack, which nothing needs any more."""
    directory = shutil.copytree(whole, tmp_path / "run")
    journal = (directory / JOURNAL).read_bytes().splitlines(keepends=True)
    first = next(place for place, line in enumerate(journal) if b'"kind": "test"' in line)
    (directory / JOURNAL).write_bytes(b"".join(journal[:first]))
    shutil.rmtree(directory / "checkpoints")
    shutil.rmtree(directory / "adapters")
    resume_run(directory, Stopper())
    assert set(kill_runs.differences(whole, directory)) <= {"repairs", "checkpoints"}
    before, after = (set(kill_runs.describe(run)["checkpoints"]) for run in (whole, directory))
    assert after <= before


def test_resume_after_losing_a_worker_in_a_job(
    tmp_path: Path, whole: Path, stop_in: StopIn
) -> None:
    """It dies in the middle of a pack: that pack is trained again, nothing that was done is."""
    directory = tmp_path / "run"
    stop_in("g0-long-0", directory)
    done = {result.job for result in read_history(directory).results}
    watcher = Stopper()
    resume_run(directory, watcher)
    assert watcher.trained[0] == "g0-long-0"
    assert not done & set(watcher.trained)
    assert kill_runs.differences(whole, directory) == []


def test_a_genome_whose_weights_were_cleaned_away_can_still_be_exported(
    tmp_path: Path, whole: Path
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    history = read_history(directory)
    front = set(history.generations[-1].front)
    gone = next(r for r in history.results if r.checkpoint and r.genome.id not in front)
    watcher = Stopper()
    export_genome(directory, gone.genome.id, tmp_path / "adapter", watcher)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert any("training it again" in line for line in watcher.said)
    assert kill_runs.differences(whole, directory) == [], "what it took is removed again"


def cut_short(folder: Path) -> None:
    """As a power cut leaves files that were never synced."""
    for path in folder.iterdir():
        os.truncate(path, 0)


def move_threshold(folder: Path) -> None:
    path = folder / "coralx.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(facts | {"threshold": 0.9}), encoding="utf-8")


def take_another(folder: Path) -> None:
    """As a backup that was put back into the wrong folder."""
    other = next(path for path in folder.parent.iterdir() if path != folder)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


ADAPTER_LOSSES: dict[str, Callable[[Path], None]] = {
    "another's": take_another,
    "another threshold": move_threshold,
    "missing": shutil.rmtree,
    "empty files": cut_short,
    "damaged": lambda folder: damage(folder / "adapter_model.safetensors"),
}


@pytest.mark.parametrize("loss", ADAPTER_LOSSES)
def test_a_lost_adapter_of_a_finished_run_is_written_again(
    loss: str, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its rows, which may be gone by then."""
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    monkeypatch.setattr(opening, "load_worker", None)
    ADAPTER_LOSSES[loss](next((directory / "adapters").iterdir()))
    watcher = Stopper()
    resume_run(directory, watcher)
    assert sum("are written again" in line for line in watcher.said) == 1
    assert not watcher.trained, "its checkpoint is there"
    assert kill_runs.differences(whole, directory) == []


def test_a_finished_run_that_lacks_nothing_loads_nothing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it keep frozen outputs, which a kill after the last record leaves there."""
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    (directory / PREFIX_FOLDER).mkdir()
    monkeypatch.setattr(opening, "load_worker", None)
    resume_run(directory, Watcher())
    assert kill_runs.differences(whole, directory) == []
    assert not (directory / PREFIX_FOLDER).exists()


def test_the_journal_alone_brings_back_the_front_of_a_finished_run(
    tmp_path: Path, whole: Path
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    shutil.copy(whole / JOURNAL, directory)
    resume_run(directory, Watcher())
    before, after = kill_runs.describe(whole), kill_runs.describe(directory)
    assert after["adapters"] == before["adapters"]
    assert after["summary"] == before["summary"]
    front = read_history(whole).generations[-1].front
    assert {name.split("/")[0] for name in after["checkpoints"]} == set(front)


def test_a_record_of_another_job_cannot_be_made_again(
    tmp_path: Path, stop_in: StopIn, whole: Path
) -> None:
    """Where the journal does not say how, nothing is made up."""
    directory = tmp_path / "run"
    stop_in("g0-short-0", directory)
    history = read_history(directory)
    (directory / JOURNAL).unlink()
    store = Store(directory)
    store.append("run_started", history.facts)
    store.append("results", history.results)  # the jobs are lost
    store.close()
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(StoreError, match="does not say how"):
        resume_run(directory, Stopper())


def test_a_change_of_versions_is_told(tmp_path: Path, stop_in: StopIn) -> None:
    directory = tmp_path / "run"
    stop_in("g0-short-0", directory)
    history = read_history(directory)
    (directory / JOURNAL).unlink()
    store = Store(directory)
    facts = history.facts | {"numerics": {**history.facts["numerics"], "threads": 64}}
    store.append("run_started", facts)
    store.close()
    watcher = Stopper("g0-first-0")
    with pytest.raises(KeyboardInterrupt):
        resume_run(directory, watcher)
    assert any("threads: 64 then, 1 now" in line for line in watcher.said)


# Disk full and read-only


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 600 KiB; the run needs several times that."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=600k")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(folder: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")


def resume_until_told(directory: Path, worker: Worker) -> History:
    with pytest.raises(StoreError, match="cannot be written"):
        start_run(worker.config, directory, Watcher())
    history = read_history(directory)
    assert not history.finished
    with pytest.raises(StoreError, match="cannot be written"):
        resume_run(directory, Watcher())
    assert read_history(directory).results == history.results, "nothing is lost by trying"
    return history


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_once_there_is_space(
    small_disk: Path, whole: Path, worker: Worker
) -> None:
    directory = small_disk / "run"
    assert resume_until_told(directory, worker).results
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    resume_run(directory, Watcher())
    assert kill_runs.differences(whole, directory) == []


@pytest.mark.parametrize("limit", [1_000, 20_000, 60_000])
def test_files_that_may_not_grow_are_a_clear_error_and_the_run_goes_on_after(
    limit: int, tmp_path: Path, whole: Path, worker: Worker
) -> None:
    """The same without a mount: a limit on the size of files, met by the journal or a checkpoint
    depending on where it lies."""
    directory = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises((StoreError, OSError)) as caught:
            start_run(worker.config, directory, Watcher())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in str(caught.value)
    assert not list(directory.rglob("*.writing"))
    again = resume_run if has_begun(directory) else None
    if again is None:
        start_run(worker.config, directory, Watcher())
    else:
        again(directory, Watcher())
    assert kill_runs.differences(whole, directory) == []


def test_a_read_only_directory_is_a_clear_error(
    small_disk: Path, whole: Path, stop_in: StopIn, worker: Worker
) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    directory = small_disk / "run"
    stop_in("g0-short-0", directory)
    before = (directory / JOURNAL).read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Read-only file system"):
        resume_run(directory, Watcher())
    with pytest.raises(StoreError, match="Read-only file system"):
        start_run(worker.config, small_disk / "other", Watcher())
    assert (directory / JOURNAL).read_bytes() == before
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    resume_run(directory, Watcher())
    assert kill_runs.differences(whole, directory) == []


# Real processes


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(kill_runs.CONFIG, sort_keys=False), encoding="utf-8")
    return path


def run_command(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "coralx", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_CORE,
    )


def wait_for_results(directory: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if has_begun(directory) and read_history(directory).results:
            return
        time.sleep(0.05)
    raise AssertionError("the run does not begin")


def test_a_second_process_is_refused_and_sigterm_stops_the_first_at_once(
    job: Path, tmp_path: Path, whole: Path
) -> None:
    directory = tmp_path / "run"
    first = run_command("run", job, "--out", directory)
    wait_for_results(directory)
    second = run_command("resume", directory)
    _, said = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"in use by process {first.pid}" in said
    assert "Traceback" not in said
    before = len(read_history(directory).results)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=120)
    after = read_history(directory)
    assert not after.finished
    assert len(after.results) <= before + 2, "no job but the one that ended meanwhile is waited for"
    assert first.returncode == 130
    assert f"coralx resume {directory}" in said
    resume_run(directory, Watcher())
    assert kill_runs.differences(whole, directory) == [], "another process, the same bits"


@pytest.mark.parametrize("broken", ["no reader", "full disk"])
def test_a_stdout_that_breaks_does_not_stop_the_run(
    broken: str, tmp_path: Path, whole: Path, stop_in: StopIn
) -> None:
    """One has a job left to train, the other the outcome to show."""
    directory = tmp_path / "run"
    if broken == "no reader":
        stop_in("g1-long-0", directory)
    else:
        shutil.copytree(whole, directory)
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-m", "coralx", "resume", str(directory)],
        stdout=writing if broken == "no reader" else full,
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_CORE,
        check=False,
    )
    os.close(writing)
    os.close(full)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("stdout cannot be written") == 1
    assert kill_runs.differences(whole, directory) == []
