"""Seeds of names and of numbers."""

from __future__ import annotations

import numpy as np

from coralx.train.seeds import hash_name, mix


def test_hash_depends_on_the_name_alone() -> None:
    assert hash_name("ab") == 131 * ord("a") + ord("b")
    assert hash_name("ab") != hash_name("ba")
    assert 0 <= hash_name("a" * 1000) < 2**61


def test_mixed_numbers_are_those_of_splitmix64() -> None:
    """Its first outputs from seed 0, whose state goes on by the constant that 1, 2, 3 are times."""
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix(np.array([1, 2, 3], dtype=np.uint64)).tolist() == known
