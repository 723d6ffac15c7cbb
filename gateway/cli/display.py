"""Shows jobs and errors to the user: a progress bar on a terminal, plain lines elsewhere, advice on errors."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from gateway.core.errors import KINDS, LOOK_FIRST, LOSSES, TROUBLES
from gateway.core.job import COMPLETED, FAILED

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from gateway.cli.follow import Job, State

COPY = "ItemCopy"
TOKEN_REQUIRED = "tokenRequired"  # noqa: S105 - a code of a trouble
SIGN_IN_ANEW = "Set GRAPH_TOKEN to a token that is still valid."

REMEDIES = {
    # Graph's and OneDrive's, by their lists of error codes
    "accessdenied": "The token's user may not do this with the item or the target: ask for access, or choose others.",
    "activitylimitreached": "Upstream throttles: try again later.",
    "generalexception": "Upstream gives no reason: try again, a copy with a --name of its own.",
    "invalidauthenticationtoken": SIGN_IN_ANEW,
    "invalidrequest": "Upstream does not take the item, target, name or body as they were written: change them.",
    "itemnotfound": "Check the ids, or item and target: one of them is not there, or the token's user may not see it.",
    "malwaredetected": "Upstream found malware in it and does not take it.",
    "namealreadyexists": "Give it another name: a copy by --name, or --conflict rename.",
    "notallowed": "Upstream does not allow this: try a smaller copy, or another target.",
    "notsupported": "Upstream cannot do this with that item or target: choose another one.",
    "operationnotfound": LOOK_FIRST,
    "quotalimitreached": "Make room in the target drive, or choose another one.",
    "resourcemodified": "The item was changed meanwhile: start again.",
    "servicenotavailable": "Try again later.",
    "unauthenticated": SIGN_IN_ANEW,
    **dict.fromkeys(("cancelled", "canceled"), "Somebody cancelled it upstream: start it again if it is still wanted."),
    "deletefailed": "See what is left in the target before you start it again.",
    # the gateway's own
    **{kind.code.lower(): kind.advice for kind in KINDS if kind.advice},
    **{code.lower(): loss.advice for code, loss in LOSSES.items()},
}

ECHO = len("^C") + 1
"""Cells of a terminal's last line that stay free: its echo of Ctrl-C must not wrap, or a second bar would be left."""


class PlainLines:
    """Prints one line on stdout per state, and notices on stderr."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        pass

    def started(self, job: Job) -> None:
        """Show a job that this command has started. The jobKey is a secret: only JSON shows it."""
        self.notice(f"job {job.url}")

    def state(self, state: State) -> None:
        print(line(state), flush=True)

    def notice(self, text: str) -> None:
        stderr_line(text)


class JSONLines(PlainLines):
    """Prints each state as one JSON object, on one line, and notices on stderr. A job that was started begins with the
    gateway's answer: its first state, with the jobKey.
    """

    def started(self, job: Job) -> None:
        super().started(job)
        self.state(job.answer)

    def state(self, state: State) -> None:
        print(json.dumps(state), flush=True)


class ProgressBar:
    """The job's label, one line with the bar, and below it upstream's description or why nothing moves."""

    def __init__(self) -> None:
        from rich.live import Live  # 60 ms
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        # rich's own colour of a bar is nearly red, which means an error here
        self._word = TextColumn("{task.fields[status]}", markup=False)
        self._column = BarColumn(bar_width=None, complete_style="cyan", finished_style="green", pulse_style="cyan")
        self._bar = Progress(
            self._word,
            self._column,
            TextColumn("{task.percentage:5.1f} %", markup=False),
            TimeElapsedColumn(),
            expand=True,
        )
        self._task = self._bar.add_task("", total=100.0, status="…", start=False)
        self._state: State = {}
        self._live = Live(console=console(), get_renderable=self._picture, refresh_per_second=10)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.transient = not self._state  # remove a bar that never showed a state
        self._live.stop()

    def started(self, job: Job) -> None:
        self.notice(f"job {job.url}")

    def state(self, state: State) -> None:
        if state.get("status") in FAILED:
            self._word.style = self._column.complete_style = "red"
        self._state = state
        self._bar.start_task(self._task)
        self._bar.update(self._task, completed=percentage(state), status=clean(state.get("status", "")))
        self._live.refresh()

    def notice(self, text: str) -> None:
        self._live.console.print(clean(text), markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.constrain import Constrain
        from rich.text import Text

        if not self._state:
            return Text("waiting for the gateway", style="dim")
        lines: list[RenderableType] = [self._bar]
        if name := title(self._state):
            lines.insert(0, Text(name, style="bold", no_wrap=True, overflow="ellipsis"))
        if words := trouble_words(self._state) or clean(self._state.get("statusDescription") or ""):
            lines.append(Text(words, style="dim", no_wrap=True, overflow="ellipsis"))
        return Constrain(Group(*lines), max(1, self._live.console.width - ECHO))


Display = PlainLines | ProgressBar


def display(*, as_json: bool = False) -> Display:
    """Return JSON lines if asked for, a progress bar if stdout is a terminal that can be drawn on, else plain lines."""
    if as_json:
        return JSONLines()
    return ProgressBar() if on_terminal() else PlainLines()


def on_terminal() -> bool:
    """Return whether stdout is a terminal that understands cursor movements, by TERM."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def console() -> Console:
    """Return a console that always draws: `on_terminal` has decided, and rich must not guess from the environment."""
    from rich.console import Console

    return Console(force_terminal=True, force_interactive=True)


def line(state: State, *, advise: bool = False) -> str:
    """Format a state as one line: time, status, percentage, title and details. `advise` adds an error's remedy."""
    error = state.get("error")
    details = error_words(error) if isinstance(error, dict) and not advise else known(state)
    at, status = (clean(state.get(name) or "") for name in ("at", "status"))
    told = "  ".join(words for words in (title(state), details) if words)
    return f"{at:<24}  {status:<13} {percentage(state):5.1f} %  {told}".rstrip()


def title(state: State) -> str:
    """Return a job's label; of one without a label what it does, unless that is a copy, as most do."""
    operation = state.get("operation") or COPY
    return clean(state.get("label") or ("" if operation == COPY else operation))


def known(state: State, now: datetime | None = None) -> str:
    """Return the details of a state: the error and its remedy, else the new item, else why nothing moves, else
    upstream's description.
    """
    error = state.get("error")
    if isinstance(error, dict):
        return f"{error_words(error).rstrip('.')}. {remedy(error.get('code'))}".rstrip()
    return clean(state.get("resource") or trouble_words(state, now) or state.get("statusDescription") or "")


def trouble_words(state: State, now: datetime | None = None) -> str:
    """Return why nothing moves, and the seconds from `now` to the next look; empty while all is well."""
    trouble = state.get("trouble")
    if not isinstance(trouble, dict) or "code" not in trouble:
        return ""
    code = str(trouble["code"])
    meaning = TROUBLES.get(code, "")
    word = re.sub(r"[A-Z]", lambda letter: f" {letter[0].lower()}", code) if meaning else f"trouble: {clean(code)}"
    try:
        left = datetime.fromisoformat(str(trouble.get("retryAt"))) - (now or datetime.now(UTC))
        seconds = math.ceil(left.total_seconds())
    except (ValueError, TypeError):
        seconds = 0
    told = f"{word}, next look in {seconds} s" if seconds > 0 and code != TOKEN_REQUIRED else word
    return f"{told}: {meaning}" if meaning else told


def needs_token(state: State) -> bool:
    """Return whether the job waits for a token."""
    trouble = state.get("trouble")
    return isinstance(trouble, dict) and trouble.get("code") == TOKEN_REQUIRED


def ending(state: State) -> str:
    """Return the final status of a job as a sentence; a failure includes its remedy."""
    operation = clean(state.get("operation") or COPY)
    what = "copy" if operation == COPY else f"operation {operation}"
    error = state.get("error")
    error = error if isinstance(error, dict) else {}
    if state.get("status") in COMPLETED:
        found = state.get("resource") or state.get("resourceId")
        complete = f"The {what} is complete" + (" in part" if error else "")
        complete += f": {clean(found)}" if found else "."
        return f"{complete.rstrip('.')}. {error_words(error)}" if error else complete
    code = clean(error.get("code", "")) or clean(state.get("status", ""))
    message = clean(error.get("message", "")).rstrip(".")
    failed = f"{message} ({code})." if message else f"{code}."
    lost = error.get("origin") == "gateway"
    end = f"The gateway lost track of the {what}" if lost else f"The {what} failed"
    return f"{end}: {failed} {remedy(code)}".rstrip()


def advice(words: str) -> str:
    """An error in words that end in its code, with what to do about that if we know it."""
    code = words.rpartition("(")[2].rstrip(")")
    return f"{words.rstrip('.')}. {remedy(code)}".rstrip()


def remedy(code: Any) -> str:
    """What to do about an error code; upstream's may have something behind it, as in AccessDenied_Copy."""
    return REMEDIES.get(str(code).lower().partition("_")[0], "")


def error_words(error: dict[str, Any]) -> str:
    """Format an error as "code: message"; the code comes first so that it is easily found."""
    return clean(f"{error.get('code', '')}: {error.get('message', '')}")


def percentage(state: State) -> float:
    """Return the percentage of a state, 0.0 when it is missing or not a number."""
    value = state.get("percentageComplete", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def clean(text: Any) -> str:
    """Replace every unprintable character of an external string: it could control the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in str(text))


def stderr_line(text: str) -> None:
    """Print a line for the user on stderr."""
    print(f"gateway: {clean(text)}", file=sys.stderr, flush=True)
