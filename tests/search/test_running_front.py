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
    running, told = RunningFront(NAMES, full_from, lambda _: True), []
    while waiting:
        name = rng.choice(sorted(waiting))
        told.append(waiting[name].pop(0))
        waiting = {key: left for key, left in waiting.items() if left}
        running.add(told[-1])
        if rng.random() < 0.5:
            assert running.members() == selection.latest(selection.points(told, NAMES, full_from))
    shuffled = random.Random(0).sample(told, len(told))  # noqa: S311
    assert running.members() == selection.latest(selection.points(shuffled, NAMES, full_from))


def test_what_is_measured_in_part_counts_until_something_is_measured_as_a_whole(
    make_result,
) -> None:
    """Whichever comes first: after a stage that selects nobody P1 alone is known."""
    whole = make_result("a", 0, objectives=dict.fromkeys(NAMES, 0.5))
    part = make_result("b", 1, objectives={NAMES[0]: 0.9})
    for order in ((whole, part), (part, whole)):
        running = RunningFront(NAMES, 2, lambda result: len(result.objectives) == len(NAMES))
        running.add(order[0])
        assert running.members() == [order[0]]
        running.add(order[1])
        assert running.members() == running.points() == [whole]
