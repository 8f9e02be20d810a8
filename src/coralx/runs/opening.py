"""What work in a run's folder begins with: journal, lock, worker, and the genome asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from coralx.config import Config
from coralx.errors import StoreError
from coralx.records import TrainingResult
from coralx.runs.folder import CHECKPOINTS, check_name
from coralx.store import History, Store
from coralx.summary import current_front
from coralx.wording import listed

if TYPE_CHECKING:
    from coralx.train.worker import Worker


def find_result(history: History, directory: Path, begin: str) -> TrainingResult:
    """Of the genome whose id is `begin` or, alone among those trained, begins so: its result that
    is on the front, else that of the highest stage that left weights.

    Raises:
        StoreError: there is no such genome, or more than one.
    """
    trained = dict.fromkeys(r.genome.id for r in history.results if r.checkpoint)
    matches = [begin] if begin in trained else [name for name in trained if name.startswith(begin)]
    if len(matches) != 1:
        front = [result.genome.id for result in current_front(history)]
        found = listed(matches or list(dict.fromkeys([*front, *trained]))) or "none yet"
        rule = "more than one genome begins" if matches else "no trained genome begins"
        raise StoreError(f"{directory}: {rule} with {begin!r}; there are {found}")
    own = [r for r in history.results if r.genome.id == matches[0] and r.checkpoint]
    stages = [r.stage for r in current_front(history) if r.genome.id == matches[0]]
    return max(own, key=lambda result: (result.stage in stages, result.stage_index))


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
