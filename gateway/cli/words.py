"""Jobs and errors in words, for a person: what happened, why, and what to do next."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.cli.follow import State

SIGN_IN_ANEW = "Set GRAPH_TOKEN to a token that is still valid."
LOOK_FIRST = "If the new item is not there, start the copy again."

REMEDIES = {
    # Graph's and OneDrive's, by their lists of error codes
    "accessdenied": "The token's user may not read the item or write to the target: ask for access, or choose others.",
    "activitylimitreached": "Upstream throttles: try again later.",
    "generalexception": "Upstream gives no reason: try again, with a --name of its own.",
    "invalidauthenticationtoken": SIGN_IN_ANEW,
    "invalidrequest": "Upstream does not take this item, target or name as they were written: change them.",
    "itemnotfound": "Check the item and the target: one of them is not there, or the token's user may not see it.",
    "malwaredetected": "Upstream found malware in it and does not copy it.",
    "namealreadyexists": "Give it another --name, or take --conflict rename.",
    "notallowed": "Upstream does not allow this copy: try a smaller one, or another target.",
    "notsupported": "Upstream cannot copy this item to that target: choose another target.",
    "operationnotfound": LOOK_FIRST,
    "quotalimitreached": "Make room in the target drive, or choose another one.",
    "resourcemodified": "The item was changed meanwhile: start the copy again.",
    "servicenotavailable": "Try again later.",
    "unauthenticated": SIGN_IN_ANEW,
    "cancelled": "Somebody cancelled it upstream: start it again if it is still wanted.",
    "deletefailed": "See what is left in the target before you start it again.",
    # the gateway's own
    "deadlineexceeded": "It may still be running: look again later. GATEWAY_JOB_DEADLINE bounds the watching.",
    "monitorexpired": LOOK_FIRST,
    "monitorhostnotallowed": "The gateway's operator can allow the host with GATEWAY_MONITOR_HOSTS.",
    "monitorunauthorized": LOOK_FIRST,
    "monitorunreachable": f"{LOOK_FIRST} Its operator should see whether the gateway still reaches upstream.",
    "upstreamunreachable": "Try again; if it stays so, its operator should look at the gateway's GATEWAY_UPSTREAM_URL.",
    "watchstopped": "Somebody ended the watching: look for the new item, nobody else does.",
}


def line(state: State, *, advise: bool = False) -> str:
    """An event in one line: time, status, percentage, and what else there is to say; `advise` adds what to do."""
    error = state.get("error")
    told = error_words(error) if isinstance(error, dict) and not advise else known(state)
    at, status = clean(state.get("at", "")), clean(state.get("status", ""))
    return f"{at:<24}  {status:<13} {percentage(state):5.1f} %  {told}".rstrip()


def known(state: State) -> str:
    """What there is to say of a job besides its status: why it failed and what to do, its result, or how it fares."""
    error = state.get("error")
    if isinstance(error, dict):
        return f"{error_words(error).rstrip('.')}. {remedy(error.get('code'))}".rstrip()
    return clean(state.get("resource") or state.get("statusDescription") or "")


def ending(state: State) -> str:
    """How a job ended, in words; a failure with what to do next."""
    if state.get("status") == "completed":
        found = state.get("resource") or state.get("resourceId")
        return "The copy is complete" + (f": {clean(found)}" if found else ".")
    error = state.get("error")
    error = error if isinstance(error, dict) else {}
    code = clean(error.get("code", "")) or clean(state.get("status", ""))
    message = clean(error.get("message", "")).rstrip(".")
    failed = f"{message} ({code})." if message else f"{code}."
    lost = error.get("origin") == "gateway"
    return f"{'The gateway lost sight of the copy' if lost else 'The copy failed'}: {failed} {remedy(code)}".rstrip()


def advice(words: str) -> str:
    """An error in words that end in its code, with what to do about that if we know it."""
    code = words.rpartition("(")[2].rstrip(")")
    return f"{words.rstrip('.')}. {remedy(code)}".rstrip()


def remedy(code: Any) -> str:
    """What to do about an error code; upstream's may have something behind it, as in AccessDenied_Copy."""
    return REMEDIES.get(str(code).lower().partition("_")[0], "")


def error_words(error: dict[str, Any]) -> str:
    """The code first, to be found by."""
    return clean(f"{error.get('code', '')}: {error.get('message', '')}")


def percentage(state: State) -> float:
    value = state.get("percentageComplete", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def clean(text: Any) -> str:
    """A text from outside, for a terminal: whatever could steer it is replaced."""
    return "".join(character if character.isprintable() else "\ufffd" for character in str(text))


def say(text: str) -> None:
    """A line for the person, beside the output."""
    print(f"gateway: {clean(text)}", file=sys.stderr, flush=True)
