"""How gateways share the work without a word to each other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.membership import rebalance


@pytest.mark.parametrize(
    ("mine", "everything", "members", "take", "give"),
    [
        (0, 0, 1, 0, 0),
        (0, 300, 1, 300, 0),
        (300, 300, 1, 0, 0),
        (300, 300, 2, 0, 150),
        (0, 300, 3, 100, 0),
        (100, 300, 3, 0, 0),
        (105, 300, 3, 0, 0),
        (106, 300, 3, 0, 6),
        (1, 1, 3, 0, 0),
        (2, 2, 3, 0, 1),
        (0, 1, 3, 1, 0),
    ],
)
def test_a_share(mine: int, everything: int, members: int, take: int, give: int) -> None:
    """All of it for one alone; a little too much is not worth the moving."""
    assert rebalance(mine, everything, members) == (take, give)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.integers(0, 500), st.integers(0, 1000))
def test_it_evens_out(held: list[int], free: int, seed: int) -> None:
    """Whoever starts with whatever, in any order: nothing stays free, and all have about the same."""
    rng = random.Random(seed)
    for _ in range(3):
        order = list(range(len(held)))
        rng.shuffle(order)
        for place in order:
            take, give = rebalance(held[place], sum(held) + free, len(held))
            taken = min(take, free)
            held[place] += taken - give
            free += give - taken
    assert free == 0
    share = sum(held) / len(held)
    assert max(held) <= share * 1.05 + 1
