# .venv/bin/python scripts/kill_runs.py --kills 200
"""Kill a small real run over and over, resume it, and compare with a run that was left alone.

Half of the kills come after a random time; the others inside a write: with part of the bytes
written, before or after a file is opened, cut or synced, a rename or a removal. Every kill is a
real SIGKILL of a real process. After each one the journal must be readable, and the next sitting
must not train a stage that the journal says is finished. A run that has come to its end is
compared, bit by bit, with one that was never killed: journal (but for times), checkpoints,
adapters and summary. The kills are shared out over the ways of searching: halving, asha, and
exploit with merged weights.

To make a sitting cost a second rather than ten, the model and rows are loaded once, and each
sitting is a fork of the process that holds them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import safetensors.torch

import coralx.train.checkpoint
from coralx.config import Config, load_config
from coralx.records import Job, TrainingResult
from coralx.runs import opening, running
from coralx.runs.watcher import Watcher
from coralx.store import has_begun, read_history
from coralx.train.checkpoint import load_checkpoint
from coralx.train.worker import Worker

# What a clock or the process itself decides, not the search.
TIMES = {
    "busy_share",
    "crc32",
    "eval_seconds",
    "peak_memory",
    "seconds",
    "seconds_per_step",
    "started",
    "train_seconds",
    "wall_seconds",
}
WRITES = 60  # a kill inside a write comes at one of the first so many of a sitting
SHARE = 0.4  # of an undisturbed run's time: the longest a sitting lasts before a kill by time

CONFIG: dict[str, Any] = {
    "vision_tower": None,
    "objectives": ["task_skill", "false_positive_cost", "memory", "calibration"],
    "data": {"image_column": None, "max_rows": 40, "max_tokens": 8},
    "space": {
        "r": {"kind": "choice", "values": [2, 4]},
        "layers": {"kind": "choice", "values": [1, 2]},
        "dropout": {"kind": "choice", "values": [0.0, 0.1]},
        "target_modules": {"kind": "choice", "values": [["query", "value"], ["all-linear"]]},
        "learning_rate": {"kind": "float", "low": 0.001, "high": 0.008, "log": True},
    },
    "evolution": {"population": 4, "generations": 2, "seed": 5},
    "training": {
        "device": "cpu",
        "threads": 1,
        "pack_size": 2,
        "attack_rows": 2,
        "bootstrap_draws": 20,
        "evaluations_per_stage": 2,
        "evaluation_batch": 16,
    },
    "storage": {"checkpoints_gb": 0},
    "hyperband": {
        "grow_rank_at": "long",
        "training_stages": [
            {"name": "first", "epoch_budget": 0.5, "data_percentage": 50, "survival_rate": 1.0},
            {"name": "short", "epoch_budget": 1.0, "data_percentage": 50, "survival_rate": 0.5},
            {"name": "long", "epoch_budget": 1.0, "data_percentage": 100, "survival_rate": 0.5},
        ],
    },
}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "halving": {},
    "asha": {"hyperband": {"promotion": "asha"}},
    "exploit and merge": {
        "evolution": {"exploit_below": 0.5, "crossover_rate": 1.0, "crossover_weights": "ties"}
    },
}


class Bench:
    """A process with the model and rows in it, from which sittings are forked."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self._base = config.model_dump(mode="json")
        self.worker = Worker(config, folder)
        for stage in config.hyperband.stages:
            self.worker.bench.validation(stage.data_percentage)
        self.worker.bench.validation(100)
        self.worker.bench.test()

    def use(self, folder: Path, changes: dict[str, dict[str, Any]]) -> None:
        """Other settings of the search, which the worker knows nothing of, and another folder."""
        folder.mkdir()
        self.config, self.folder = load_config(self._base, changes), folder

    def sit(self, directory: Path, instant: Instant | None, seconds: float | None) -> bool:
        """Start or resume the run in a child; kill it at the instant or after the time. True if
        it came to its end.

        Raises:
            RuntimeError: the child failed, or trained again what was finished.
        """
        finished = trained_stages(directory)
        log = directory.with_suffix(".log")
        log.write_text("", encoding="utf-8")
        child = os.fork()
        if child == 0:
            self._work(directory, instant, log)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        check_not_again(finished, log)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return True
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return False
        raise RuntimeError(f"{directory}: the sitting failed with status {status}")

    def _work(self, directory: Path, instant: Instant | None, log: Path) -> None:
        """The child's life; it never returns."""
        try:
            self.worker.bench.checkpoints = directory / "checkpoints"
            self.worker.train = note_jobs(self.worker.train, log)  # type: ignore[method-assign]
            opening.load_worker = lambda *_: self.worker
            if instant is not None:
                instant.arm()
            if has_begun(directory):
                running.resume_run(directory, Watcher())
            else:
                running.start_run(self.config, directory, Watcher())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


class Instant:
    """SIGKILL inside the n-th opening, write, cut, sync, rename or removal of this process."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self._left, self._chance = number, chance

    def arm(self) -> None:
        """From here on, in this process, for good."""
        write, save = os.write, safetensors.torch.save_file

        def tear(file: int, data: bytes) -> int:
            if self._is_now():
                write(file, bytes(data)[: self._chance.randrange(len(data) + 1)])
                die()
            return write(file, data)

        def tear_file(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
            save(tensors, path, metadata)
            if self._is_now():
                os.truncate(path, self._chance.randrange(path.stat().st_size + 1))
                die()

        os.write = tear  # type: ignore[assignment]
        setattr(coralx.train.checkpoint, "save_file", tear_file)  # noqa: B010 - imported by name
        for name in ("fsync", "replace", "unlink", "mkdir", "open", "pwrite", "ftruncate"):
            setattr(os, name, self._around(getattr(os, name)))

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            if not self._is_now():
                return call(*arguments, **options)
            try:
                if self._chance.random() < 0.5:
                    call(*arguments, **options)
            finally:  # also where the call fails, as making a folder does that is there
                die()
            return None

        return act

    def _is_now(self) -> bool:
        self._left -= 1
        return self._left == 0


def die() -> None:
    """As a power cut would have it."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def note_jobs(
    train: Callable[..., list[TrainingResult]], log: Path
) -> Callable[..., list[TrainingResult]]:
    """Training that first writes down what it trains."""

    def noted(job: Job, *rest: Any) -> list[TrainingResult]:
        with log.open("a", encoding="utf-8") as file:
            file.writelines(f"{genome.id} {job.stage.name}\n" for genome in job.genomes)
        return train(job, *rest)

    return noted


def trained_stages(directory: Path) -> set[tuple[str, str]]:
    """What the journal says is finished: (genome, stage)."""
    if not has_begun(directory):
        return set()
    return {(result.genome.id, result.stage) for result in read_history(directory).results}


def check_not_again(finished: set[tuple[str, str]], log: Path) -> None:
    lines = log.read_text(encoding="utf-8").splitlines()
    again = finished & {(genome, stage) for genome, stage in map(str.split, lines)}
    if again:
        raise RuntimeError(f"trained again although finished: {sorted(again)}")


def differences(one: Path, other: Path) -> list[str]:
    """In what two finished runs differ, times aside; bit by bit."""
    left, right = describe(one), describe(other)
    return [name for name in left if left[name] != right[name]]


def describe(directory: Path) -> dict[str, Any]:
    """All that a run directory holds, by what it is, without times."""
    history = read_history(directory)
    folder = directory / "checkpoints"
    names = [f"{p.parent.name}/{p.stem}" for p in sorted(folder.glob("*/*.safetensors"))]
    for name in names:
        load_checkpoint(folder, name)  # verifies the weights
    adapters = sorted((directory / "adapters").glob("*/*"))
    return {
        "finished": history.finished,
        "jobs": {job.id: timeless(job.model_dump(mode="json")) for job in history.jobs},
        "results": [timeless(result.model_dump(mode="json")) for result in history.results],
        "generations": [g.model_dump(mode="json") for g in history.generations],
        "tests": [test.model_dump(mode="json") for test in history.tests],
        "repairs": history.repairs,
        "checkpoints": names,
        "half-written": [str(p) for p in directory.rglob("*.writing")],
        "adapters": {str(p.relative_to(directory)): p.read_bytes() for p in adapters},
        "summary": timeless(json.loads((directory / "summary.json").read_text("utf-8"))),
        "report": (directory / "report.html").stat().st_size > 0,
    }


def timeless(value: Any) -> Any:
    """The value without what a clock decides."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def kill_until(bench: Bench, wanted: int, seed: int, say: Callable[[str], None]) -> dict[str, int]:
    """Kill runs `wanted` times in all; how many of which kind, and how many runs were compared.

    Raises:
        RuntimeError: a run differs from the undisturbed one, or failed.
    """
    began = time.monotonic()
    whole = bench.folder / "whole"
    bench.sit(whole, None, None)
    lasts = time.monotonic() - began
    say(f"undisturbed run: {lasts:.1f} s, {len(read_history(whole).results)} results")
    count = {"by time": 0, "inside a write": 0, "runs compared": 0}
    chances = random.Random(seed)  # noqa: S311 - no secret
    while count["by time"] + count["inside a write"] < wanted:
        number = count["runs compared"]
        directory = bench.folder / f"killed-{number}"
        done = False
        while not done:
            kills = count["by time"] + count["inside a write"]
            chance = random.Random(chances.random())  # noqa: S311 - no secret
            if kills >= wanted:
                done = bench.sit(directory, None, None)
            elif chance.random() < 0.5:
                done = bench.sit(directory, Instant(chance.randint(1, WRITES), chance), None)
                count["inside a write"] += not done
            else:
                done = bench.sit(directory, None, chance.uniform(0, SHARE * lasts))
                count["by time"] += not done
        found = differences(whole, directory)
        if found:
            raise RuntimeError(f"{directory} differs from {whole} in: {', '.join(found)}")
        count["runs compared"] += 1
        say(f"run {number}: identical; {kills} kills so far")
    return count


def kill_variants(
    bench: Bench, wanted: int, seed: int, say: Callable[[str], None]
) -> dict[str, int]:
    """`kill_until` for each variant, `wanted` kills between them."""
    total: Counter[str] = Counter()
    folder = bench.folder
    for number, (name, changes) in enumerate(VARIANTS.items()):
        say(name)
        bench.use(folder / name, changes)
        share = wanted // len(VARIANTS) + (number < wanted % len(VARIANTS))
        total.update(kill_until(bench, share, seed + number, say))
    return dict(total)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more than one: packs in lanes")
    parser.add_argument("--keep", type=Path, help="an empty folder to leave the runs in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coralx-kills-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"training": {"threads": arguments.threads}}
        bench = Bench(load_config(CONFIG, wanted), folder)
        try:
            count = kill_variants(bench, arguments.kills, arguments.seed, print)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    print(json.dumps(count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
