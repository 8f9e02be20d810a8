"""What work in a run's folder begins with: its journal, locked, and a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from coralx.config import Config
from coralx.runs.folder import CHECKPOINTS, check_name
from coralx.store import History, Store

if TYPE_CHECKING:
    from coralx.train.worker import Worker


def open_journal(directory: Path, say: Callable[[str], None]) -> Store:
    """The journal of a run, which is this process's until it is closed."""
    store = Store(directory)
    if store.warning:
        say(store.warning)
    return store


def set_trust(history: History, trusted: bool, say: Callable[[str], None]) -> None:
    """Let code of the base model run only where the caller says so: a run may come from elsewhere,
    and what its journal allows was allowed by others."""
    config = history.config
    if config.trust_remote_code and not trusted:
        say(
            f"code in the folder of {config.base_model} is not run, though the run was allowed to: "
            "if you trust it and it is needed, give --trust-remote-code"
        )
    history.config = config.model_copy(update={"trust_remote_code": trusted})


def say_trust(config: Config, say: Callable[[str], None]) -> None:
    """Told before a base model is loaded."""
    if config.trust_remote_code:
        say(f"trust_remote_code: true: code in the folder of {config.base_model} is run")


def load_worker(config: Config, directory: Path, say: Callable[[str], None]) -> Worker:
    """The worker of a run that lies, or is to lie, in `directory`."""
    from coralx.executors import check_executor
    from coralx.train.worker import Worker

    check_name(directory)
    check_executor(config.training.workers)
    say_trust(config, say)
    return Worker(config, directory / CHECKPOINTS, say)
