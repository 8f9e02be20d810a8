"""What work in a run's folder begins with: its journal, locked, and a worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coralx.config import Config
from coralx.runs.folder import CHECKPOINTS, check_name
from coralx.runs.watcher import Watcher
from coralx.store import Store

if TYPE_CHECKING:
    from coralx.train.worker import Worker


def open_journal(directory: Path, watcher: Watcher) -> Store:
    """The journal of a run, which is this process's until it is closed."""
    store = Store(directory)
    if store.warning:
        watcher.say(store.warning)
    return store


def load_worker(config: Config, directory: Path, watcher: Watcher) -> Worker:
    """The worker of a run that lies, or is to lie, in `directory`."""
    from coralx.executors import check_executor
    from coralx.train.worker import Worker

    check_name(directory)
    check_executor(config.training.workers)
    return Worker(config, directory / CHECKPOINTS, watcher.say)
