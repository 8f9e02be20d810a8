"""Where jobs run: in this process, on workers beside it, or in recordings."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from coralx.errors import ExecutorError
from coralx.loop import Executor
from coralx.records import Progress

if TYPE_CHECKING:
    from coralx.train.worker import Worker

T = TypeVar("T")


class Heal(Protocol):
    """Does what it is given, again after mending a checkpoint that it stumbled on."""

    def __call__(self, action: Callable[[], T], /) -> T: ...


def just_do(action: Callable[[], T], /) -> T:
    """Heals nothing: a missing or damaged checkpoint is an error."""
    return action()


def check_executor(workers: int) -> None:
    """Pass if there is what so many workers need. Told before anything is loaded.

    Raises:
        ExecutorError: Ray is not installed.
    """
    if workers > 1 and importlib.util.find_spec("ray") is None:
        raise ExecutorError(
            f"training.workers: {workers} workers need Ray, which is not installed; "
            "pip install 'coralx[ray]', or begin a new run with 1"
        )


@contextlib.contextmanager
def open_executor(
    worker: Worker,
    observe: Callable[[Progress], None],
    heal: Heal = just_do,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Executor]:
    """As many workers as `training.workers` says; they end with the context.

    Args:
        worker: of this process; it trains if it is the only one.
        observe: told how far the job at work is.
        say: told what is being started.

    Raises:
        ExecutorError: Ray is not installed, has no room for the workers, or cannot start them.
    """
    check_executor(worker.config.training.workers)
    if worker.config.training.workers == 1:
        from coralx.executors.local import LocalExecutor

        yield LocalExecutor(worker, observe, heal)
        return
    from coralx.executors.ray_pool import open_pool

    with open_pool(worker, observe, heal, say) as pool:
        yield pool
