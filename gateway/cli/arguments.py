"""What was typed, or set, as the values a command works with. Raises typer.BadParameter with what would be right."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

import typer

from gateway.core.job import STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


def parsed(parse: Callable[[str], T], text: str, hint: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint=hint) from None


def secret(file: Path | None, variable: str, hint: str) -> str:
    """What the file holds, else the variable: a secret in an argument could be read from the list of processes."""
    try:
        text = (file.read_text() if file is not None else os.environ.get(variable, "")).strip()
    except (OSError, UnicodeError) as error:
        raise typer.BadParameter(f"cannot be read: {error}", param_hint=hint) from None
    if not text or not text.isascii() or not text.isprintable():
        source = variable if file is None else f"{file}"
        why = f"{source} holds none that could be sent" if text or file is not None else f"{variable} is not set"
        raise typer.BadParameter(f"{why}; set it in the environment, or name a file that holds it with {hint}")
    return text


def status_word(word: str | None) -> str | None:
    """A status in Graph's spelling; one that nobody knows is passed on, as upstream may have new ones."""
    if word is None:
        return None
    spelt = {status.lower(): status for status in STATUSES}
    near = get_close_matches(word.lower(), spelt, n=1)
    if near and word.lower() not in spelt:
        raise typer.BadParameter(f"{word!r} is no status; did you mean {spelt[near[0]]}?", param_hint="--status")
    return spelt.get(word.lower(), word)
