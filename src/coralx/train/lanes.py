"""Work shared out among the cores: lanes that run side by side, with cores of their own.

A pack's matrix products are too small for cores to share well, and much of what is no matrix
product is not shared at all.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence

import torch

from coralx.errors import CoralXError


class Lanes:
    """Tasks in threads of their own, the first in the caller's, that may take steps together.

    Args:
        count: of tasks; the cores are shared out among them.
        after: called once all have taken a step and before any begins the next. What it raises
            ends them all.
    """

    def __init__(self, count: int, after: Callable[[], None] = lambda: None) -> None:
        self._count = count
        self._meeting = threading.Barrier(count, after)
        self._errors: list[BaseException] = []

    def meet(self) -> None:
        """Say that a step is done and wait for the others.

        Raises:
            threading.BrokenBarrierError: one of them has failed or was interrupted.
        """
        self._meeting.wait()

    def check(self) -> None:
        """For tasks that need not wait for each other: whether to go on.

        Raises:
            threading.BrokenBarrierError: one of them has failed or was interrupted.
        """
        if self._meeting.broken:
            raise threading.BrokenBarrierError

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run them to their ends.

        Raises:
            BaseException: what was raised first in one of them, or KeyboardInterrupt; the others
                have stopped by then.
        """
        if self._count == 1:
            tasks[0]()
            return
        cores = torch.get_num_threads()
        own, more = divmod(max(cores, self._count), self._count)
        # Daemons: a signal at an unlucky moment must not leave threads that hold up the exit.
        threads = [
            threading.Thread(
                target=self._guard,
                args=(task, own + (place < more)),
                name=f"lane-{place}",
                daemon=True,
            )
            for place, task in enumerate(tasks[1:], start=1)
        ]
        try:
            for thread in threads:
                _start(thread)
            self._guard(tasks[0], own + (more > 0))
        except BaseException as error:  # a signal between two lines
            self._fail(error)
        finally:
            self._join(threads)
            torch.set_num_threads(cores)
        stops = [one for one in self._errors if isinstance(one, KeyboardInterrupt)]
        for one in (*stops, *self._errors):
            raise one

    def _guard(self, task: Callable[[], None], cores: int) -> None:
        try:
            torch.set_num_threads(cores)  # of this thread
            task()
        except threading.BrokenBarrierError:
            pass  # another one has failed, and says why
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._errors.append(error)
        self._meeting.abort()

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        while True:
            try:
                for thread in threads:
                    if thread.ident is not None:  # it was started
                        thread.join()
                return
            except KeyboardInterrupt as error:
                self._fail(error)


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        raise CoralXError(
            f"training needs a thread a core and the system starts no more ({error}); "
            "raise its limit (`ulimit -u`), or set training.threads: 1"
        ) from None


def share_out(costs: Sequence[float], count: int) -> list[list[int]]:
    """Places of `costs` in `count` parts of about equal sums, none empty: the dearest first, each
    to the part that has least so far (LPT; Graham 1969). Each part is in order."""
    parts: list[list[int]] = [[] for _ in range(min(count, len(costs)))]
    heap = [(0.0, part) for part in range(len(parts))]
    for place in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        total, part = heapq.heappop(heap)
        parts[part].append(place)
        heapq.heappush(heap, (total + costs[place], part))
    return [sorted(part) for part in parts]


def lanes_for(tasks: int, device: torch.device) -> int:
    """How many lanes serve so many tasks: one a core; a GPU shares itself out."""
    return 1 if device.type != "cpu" else max(1, min(tasks, torch.get_num_threads()))
