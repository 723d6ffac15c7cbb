"""How many descriptors the process may have, and what it can offer with them."""

from __future__ import annotations

import resource

from gateway.callbacks import lanes
from gateway.outbound import names
from gateway.server.greeting import say
from gateway.settings import Settings

SPARE = 100
CALLBACKS = lanes.AT_ONCE * names.DIALLED
"""As many as attempts may have at once."""
POLL_SECONDS = 10


def within_descriptors(settings: Settings) -> Settings:
    """Raise the descriptor limit as far as it goes; streams beyond it are not offered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    polls = min(settings.max_jobs, int(settings.poll_rate * POLL_SECONDS))
    room = hard - SPARE - polls - CALLBACKS
    if room >= settings.max_streams:
        return settings
    streams = max(1, room, (hard - SPARE) // 2)
    streams = min(streams, settings.max_streams)
    say(
        f"The descriptor limit is {hard}: at most {streams} streams are served, not {settings.max_streams}. "
        "Raise it with ulimit -Hn."
    )
    return settings.model_copy(update={"max_streams": streams})
