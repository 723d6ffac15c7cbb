"""What a poller of a job asks for: another state than those that it has (`If-None-Match`, RFC 9110), and a wait for it
(`Prefer: wait=N`, RFC 7240).
"""

from __future__ import annotations

import re
from itertools import islice

import msgspec
from starlette.datastructures import Headers

LONGEST_WAIT = 60
"""Seconds. Most proxies drop a request that is silent for longer."""

MOST_TAGS = 256
"""Most entity tags of an `If-None-Match` that are read."""

_TAG = re.compile(r'"[^"\x00-\x20\x7f]*"')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"?', re.DOTALL)
_DIGITS = re.compile(r"[0-9]+")


class Poll(msgspec.Struct, frozen=True):
    """`known` are the entity tags of the states that the poller has; `*` among them stands for every state; None if it
    names none. `wait` is the longest wait in seconds, None if the poller prefers no wait.
    """

    known: frozenset[str] | None
    wait: int | None

    def knows(self, seq: int) -> bool:
        """Whether the poller has the state with this event number: the answer is 304."""
        return self.known is not None and ("*" in self.known or tag(seq) in self.known)

    def is_answered_by(self, seq: int, ended: bool) -> bool:
        """Whether a wait ends with this state: another than the known ones or, if none is known, the last."""
        return ended or (self.known is not None and not self.knows(seq))


def asked(headers: Headers) -> Poll:
    return Poll(
        _known(", ".join(headers.getlist("If-None-Match"))),
        _wait(", ".join(headers.getlist("Prefer"))),
    )


def tag(seq: int) -> str:
    """The entity tag of a job's state: the number of its newest event."""
    return f'"{seq}"'


def _known(tags: str) -> frozenset[str] | None:
    """Compared weakly, as RFC 9110 wants it here: proxies that compress put `W/` before a tag."""
    found = (tag[0] for tag in islice(_TAG.finditer(tags), MOST_TAGS))
    return frozenset({"*"} if tags.strip() == "*" else found) or None


def _wait(preferences: str) -> int | None:
    """The first `wait` counts; one that is no whole number is ignored, as RFC 7240 wants it."""
    for preference in _QUOTED.sub(_unquoted, preferences).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            return int(min(float(value), LONGEST_WAIT)) if _DIGITS.fullmatch(value.strip()) else None
    return None


def _unquoted(quoted: re.Match[str]) -> str:
    """A quoted number without its quotes; any other text is dropped with its commas."""
    return f" {quoted[1]} " if _DIGITS.fullmatch(quoted[1]) else ""
