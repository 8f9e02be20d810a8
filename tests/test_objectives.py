"""What is known of the objectives, and of a user's own."""

import math

import pytest

from coralx.objectives import OBJECTIVES, describe, loss, minimised


def test_costs_are_minimised_and_all_else_is_not() -> None:
    assert [name for name in OBJECTIVES if minimised(name)] == ["false_positive_cost", "memory"]
    assert not minimised("mine:f")


def test_of_a_users_own_the_name_is_all_there_is_to_say() -> None:
    own = describe("mine:f")
    assert (own.label, own.short, own.measure, own.bounds) == ("mine:f", "mine:f", "", None)


@pytest.mark.parametrize(("name", "best_first"), [("memory", [1.0, 2.0]), ("mine:f", [2.0, 1.0])])
def test_sorted_by_loss_the_best_comes_first_and_what_is_no_number_last(
    name: str, best_first: list[float]
) -> None:
    values = [math.nan, 1.0, None, 2.0]
    ordered = sorted(values, key=lambda value: loss(name, value))
    assert ordered[:2] == best_first
