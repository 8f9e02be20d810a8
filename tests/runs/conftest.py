"""A run that nothing happened to, and the worker that trained it."""

from __future__ import annotations

from pathlib import Path

import kill_runs
import pytest

from coralx.config import load_config
from coralx.runs import opening
from coralx.runs.running import start_run
from coralx.runs.watcher import Watcher
from coralx.train.worker import Worker


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(load_config(kill_runs.CONFIG), tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, worker: Worker) -> Path:
    """To be copied, not changed."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        worker.bench.checkpoints = directory / "checkpoints"
        patch.setattr(opening, "load_worker", lambda *_: worker)
        start_run(worker.config, directory, Watcher())
    return directory
