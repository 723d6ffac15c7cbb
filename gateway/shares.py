"""How much of the common work one gateway should have: a pure decision, that each makes for itself."""

from __future__ import annotations

import math

UNEVEN = 0.05
"""The part of its share that a gateway may have above it before it hands something on: moving costs a poll or two."""


def fair(mine: int, everything: int, members: int) -> tuple[int, int]:
    """How many to take, if there are any free, and how many to hand on.

    `everything` counts what all `members` have and what nobody has. Since the shares of all add up to it at least, what
    is free always finds one that may take it.
    """
    share = math.ceil(everything / members)
    over = mine - share
    if over < 0:
        return -over, 0
    return 0, over if over > share * UNEVEN else 0
