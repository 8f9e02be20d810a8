"""The front kept up to date is the front of all results, whatever their order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from coralx.records import Stop
from coralx.search import selection
from coralx.search.running_front import RunningFront

NAMES = ("task_skill", "false_positive_cost")
STOP = Stop(gate="auroc", value=0.5, limit=0.55, reason="task_skill 0.5 is under 0.55")
LIVES = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=4),
    max_size=6,
)


@given(LIVES, st.integers(0, 3), st.randoms(use_true_random=False))
def test_it_is_the_front_of_all_added_so_far(make_result, lives, full_from: int, rng) -> None:
    waiting = {
        chr(97 + i): [
            make_result(
                chr(97 + i),
                stage,
                objectives=dict(zip(NAMES, values, strict=True)),
                stopped=STOP if stopped else None,
            )
            for stage, (*values, stopped) in enumerate(life)
        ]
        for i, life in enumerate(lives)
        if life
    }
    running, told = RunningFront(NAMES, full_from), []
    while waiting:
        name = rng.choice(sorted(waiting))
        told.append(waiting[name].pop(0))
        waiting = {key: left for key, left in waiting.items() if left}
        running.add(told[-1])
        if rng.random() < 0.5:
            assert running.members() == selection.latest(selection.points(told, NAMES, full_from))
    shuffled = random.Random(0).sample(told, len(told))  # noqa: S311
    assert running.members() == selection.latest(selection.points(shuffled, NAMES, full_from))
