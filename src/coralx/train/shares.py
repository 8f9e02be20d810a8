"""Shares of rows that are drawn by a seed: stratified, with copies of a row together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from coralx.train.data import subset
from coralx.train.rows import Key, Rows


def set_aside(rows: Rows, percentage: float, seed: int) -> tuple[Rows, Rows]:
    """(the rest, a stratified share of `percentage` per cent), both in the order of the rows.
    Copies of a row (same text, but for case and spaces, and picture) all go where the first goes,
    so that no row that is measured was trained on."""
    rest, share = _draw(rows, percentage, seed)
    return rows.take(rest), rows.take(share)


def halve(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """As `set_aside`, whatever a row's task: each stratum rounds up, and of clean rows that name
    their sources as tasks, one each, all would be for final figures and none for choices."""
    alike = replace(rows, tasks=("all",) * len(rows))
    rest, share = _draw(alike, 50, seed)
    return rows.take(rest), rows.take(share)


def _draw(rows: Rows, percentage: float, seed: int) -> tuple[list[int], list[int]]:
    """(places of the rest, those of a stratified share)."""
    keys = rows.keys()
    first: dict[Key, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    places = list(first.values())
    taken = {keys[places[i]] for i in subset(rows.take(places), percentage, seed)}
    share = [i for i, key in enumerate(keys) if key in taken]
    rest = [i for i, key in enumerate(keys) if key not in taken]
    return rest, share


def limit(rows: Rows, most: int | None, seed: int) -> Rows:
    """A stratified share of at most `most` rows."""
    if most is None or len(rows) <= most:
        return rows
    share = rows.take(subset(rows, 100 * most / len(rows), seed))
    # Strata round up, which can be a few rows too many: leave out some, evenly spaced.
    spaced = share.take(np.linspace(0, len(share) - 1, most).astype(np.int64))
    if set(spaced.strata()) == set(share.strata()):
        return spaced
    return share.take(_thin_largest(share, most))


def _thin_largest(rows: Rows, most: int) -> list[int]:
    """`most` of the rows, those left out being of the largest strata: a rare one stays. Where
    there are more strata than that, both classes stay."""
    in_stratum: Counter[object] = Counter()
    of_class: Counter[object] = Counter()  # at the same place in their strata
    places = []
    for index, stratum in enumerate(rows.strata()):
        in_stratum[stratum] += 1
        place, label = in_stratum[stratum], stratum[0]
        of_class[place, label] += 1
        places.append((place, of_class[place, label], index))
    return sorted(index for *_, index in sorted(places)[:most])
