"""Loaded before any test: coralx sets up OpenMP before torch is imported."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import settings

import coralx.train  # noqa: F401
from coralx.search.asktell import Search

settings.register_profile("no-deadline", deadline=None)  # no test asserts on time
settings.load_profile("no-deadline")


def _funnel(search: Search) -> list[Counter[str]]:
    lines: list[Counter[str]] = [Counter() for _ in range(search.generation + 1)]
    for result in search.results:
        lines[result.generation][result.stage] += 1
    return lines


@pytest.fixture(scope="session")
def funnel() -> Callable[[Search], list[Counter[str]]]:
    """For each generation of a search, how many genomes trained in each stage."""
    return _funnel
