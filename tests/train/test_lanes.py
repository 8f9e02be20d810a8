"""Lanes: every step together, errors and Ctrl-C told, cores given back, work shared out evenly."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coralx.errors import CoralXError
from coralx.train.lanes import Lanes, lanes_for, share_out


@pytest.fixture(autouse=True)
def _two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_steps_are_taken_together() -> None:
    seen: list[str] = []
    lanes = Lanes(2, lambda: seen.append("all"))

    def work(name: str) -> None:
        for _ in range(3):
            seen.append(name)
            lanes.meet()

    lanes.run([lambda: work("a"), lambda: work("b")])
    rounds = [seen[first : first + 3] for first in range(0, 9, 3)]
    assert [sorted(done[:2]) for done in rounds] == [["a", "b"]] * 3
    assert [done[2] for done in rounds] == ["all"] * 3


@pytest.mark.parametrize(("count", "own"), [(1, 2), (2, 1)])
def test_each_has_cores_of_its_own_and_gives_them_back(count: int, own: int) -> None:
    found: list[int] = []
    Lanes(count).run([lambda: found.append(torch.get_num_threads())] * count)
    assert found == [own] * count
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("place", [0, 1])
def test_what_one_raises_ends_the_others(place: int) -> None:
    lanes = Lanes(2)

    def work(own: int) -> None:
        for step in range(1000):
            if own == place and step == 2:
                raise MemoryError("no room")
            lanes.meet()

    with pytest.raises(MemoryError, match="no room"):
        lanes.run([lambda: work(0), lambda: work(1)])
    assert not [t for t in threading.enumerate() if t.name.startswith("lane-")]
    assert torch.get_num_threads() == 2


def test_what_is_raised_after_a_step_ends_all() -> None:
    steps: list[int] = []

    def after() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise ValueError("enough")

    lanes = Lanes(2, after)

    def work() -> None:
        for _ in range(1000):
            lanes.meet()

    with pytest.raises(ValueError, match="enough"):
        lanes.run([work, work])
    assert len(steps) == 2


def test_ctrl_c_comes_before_other_errors() -> None:
    lanes = Lanes(2)
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise MemoryError

    def stop() -> None:
        failed.wait()
        while True:  # until the other's error is known
            try:
                lanes.check()
            except threading.BrokenBarrierError:
                raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        lanes.run([stop, fail])


def test_no_more_threads_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(CoralXError, match=r"can't start new thread.*training\.threads: 1"):
        Lanes(2).run([lambda: None, lambda: None])
    assert torch.get_num_threads() == 2


def test_tasks_that_do_not_meet_stop_all_the_same() -> None:
    lanes = Lanes(2)
    rounds: list[int] = []

    def fail() -> None:
        raise MemoryError

    def work() -> None:
        while True:
            lanes.check()
            rounds.append(1)

    with pytest.raises(MemoryError):
        lanes.run([work, fail])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 4))
def test_work_is_shared_out_whole_and_evenly(costs: list[int], count: int) -> None:
    parts = share_out(costs, count)
    assert len(parts) == min(count, len(costs))
    assert all(parts)
    assert sorted(place for part in parts for place in part) == list(range(len(costs)))
    sums = [sum(costs[place] for place in part) for part in parts]
    assert max(sums) <= sum(costs) / len(parts) + max(costs)


def test_as_many_lanes_as_cores_or_tasks() -> None:
    cpu, cuda = (torch.device(kind) for kind in ("cpu", "cuda"))
    assert [lanes_for(tasks, cpu) for tasks in (0, 1, 2, 8)] == [1, 1, 2, 2]
    assert lanes_for(8, cuda) == 1
