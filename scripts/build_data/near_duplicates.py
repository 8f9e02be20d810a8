"""Find near-duplicate goals, so that none crosses from one split into another."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from untyped_packages import text

COSINE = 0.62
JACCARD = 0.55


def compare(left: Sequence[str], right: Sequence[str]) -> NDArray[np.bool_]:
    """Return which pairs are near-duplicates, by character n-grams or by shared words."""
    vectorizer = text.TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    vectorizer.fit([*left, *right])
    cosine = (vectorizer.transform(left) @ vectorizer.transform(right).T).toarray()
    return np.asarray((cosine >= COSINE) | (_jaccard(left, right) >= JACCARD))


def _jaccard(left: Sequence[str], right: Sequence[str]) -> NDArray[np.float64]:
    words_left = [set(line.lower().split()) for line in left]
    words_right = [set(line.lower().split()) for line in right]
    rows = [[len(a & b) / max(1, len(a | b)) for b in words_right] for a in words_left]
    return np.array(rows, dtype=np.float64).reshape(len(left), len(right))


def cluster(texts: Sequence[str]) -> list[int]:
    """Return a cluster number for every text; near-duplicates share one, transitively."""
    close = compare(texts, texts)
    labels = [-1] * len(texts)
    for start in range(len(texts)):
        if labels[start] < 0:
            _flood(start, start, close, labels)
    return labels


def _flood(start: int, label: int, close: NDArray[np.bool_], labels: list[int]) -> None:
    todo = [start]
    while todo:
        here = todo.pop()
        if labels[here] < 0:
            labels[here] = label
            todo.extend(int(other) for other in np.flatnonzero(close[here]))
