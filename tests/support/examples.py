"""How many examples hypothesis tries: few in every run, many with `--thorough`."""

from __future__ import annotations

import hypothesis

MANY = 100
FEW = 25  # of a test that names no number


def is_thorough() -> bool:
    return bool(hypothesis.settings.get_current_profile_name() == "thorough")


def examples(many: int) -> int:
    """For `max_examples` of a test that needs its own number: `many` with `--thorough`, else a quarter, 10 at least."""
    if is_thorough():
        return many
    return max(many * FEW // MANY, min(many, 10))
