"""Parses arguments and environment variables into the values a command works with.

`parsed` turns the ValueError of the other parsers into typer.BadParameter.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, quote, urlsplit

import typer

from gateway.core.job import STATUSES, known_status
from gateway.core.keys import is_webhook_secret, new_webhook_secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.job import Kind

DEFAULT_URL = "http://127.0.0.1:8000"
"""The default of --gateway: the address on which `gateway serve` listens by default."""
VERSIONS = ("v1.0", "beta")
STDIN = Path("-")
OWN_HEADERS = frozenset(
    ("authorization", "content-length", "content-type", "gateway-callback-secret", "host", "idempotency-key")
)
"""The headers that a command sets itself, and those that are secrets."""

T = TypeVar("T")


def parsed(parse: Callable[[str], T], text: str, hint: str) -> T:
    """Return `parse(text)`. Raises typer.BadParameter, which names the argument `hint`, for its ValueError."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint=hint) from None


def secret(file: Path | None, variable: str, hint: str) -> str:
    """Read a secret from `file`, or from the environment variable when there is no file; `-` is standard input.

    No secret is an argument, because the list of processes shows arguments. Raises typer.BadParameter.
    """
    try:
        text = (os.environ.get(variable, "") if file is None else _text(str(file))).strip()
    except (OSError, UnicodeError) as error:
        raise typer.BadParameter(f"cannot be read: {error}", param_hint=hint) from None
    source = variable if file is None else "standard input" if file == STDIN else f"{file}"
    if not text:
        why = f"{variable} is not set" if file is None else f"{source} is empty"
    elif not text.isascii() or not text.isprintable():
        why = f"{source} must be one line of ASCII characters"
    else:
        return text
    raise typer.BadParameter(f"{why}; set {variable} in the environment, or name a file that contains it with {hint}")


def operator_key(file: Path | None) -> str:
    """Read the operator key. Of several, as a gateway has them while the key is changed, the first opens everywhere.

    Raises typer.BadParameter.
    """
    return secret(file, "GATEWAY_OPERATOR_KEY", "--operator-key-file").partition(",")[0]


def job_key(file: Path | None, operator_file: Path | None) -> str:
    """Read the key that changes a job: its jobKey if there is one, else the operator key. Raises typer.BadParameter."""
    if file is not None or (operator_file is None and os.environ.get("GATEWAY_JOB_KEY")):
        return secret(file, "GATEWAY_JOB_KEY", "--job-key-file")
    if operator_file is None and not os.environ.get("GATEWAY_OPERATOR_KEY"):
        raise typer.BadParameter(
            "neither GATEWAY_JOB_KEY nor GATEWAY_OPERATOR_KEY is set; set one of them in the environment, or name a "
            "file that contains it with --job-key-file or --operator-key-file. The response that names the job has the "
            "jobKey, and so has the first line of gateway copy --json, or start --json"
        )
    return operator_key(operator_file)


def webhook_secret(file: Path | None) -> tuple[str, bool]:
    """Return the secret that callbacks are signed with, and whether it was made now. Raises typer.BadParameter."""
    if file is None and not os.environ.get("GATEWAY_WEBHOOK_SECRET"):
        return new_webhook_secret(), True
    text = secret(file, "GATEWAY_WEBHOOK_SECRET", "--secret-file")
    if not is_webhook_secret(text):
        raise typer.BadParameter("a webhook secret is whsec_ and 24 to 64 bytes in base64", param_hint="--secret-file")
    return text, False


def status_word(word: str | None) -> str | None:
    """Return a status in Graph's spelling. An unknown status is passed on, as upstream may add new ones.

    Raises typer.BadParameter for a status that is nearly a known one.
    """
    if word is None:
        return None
    if (known := known_status(word)) is not None:
        return known
    spelt = {status.lower(): status for status in STATUSES}
    if near := get_close_matches(word.lower(), spelt, n=1):
        raise typer.BadParameter(f"{word!r} is not a status; did you mean {spelt[near[0]]}?", param_hint="--status")
    return word


def copy_path(item: str) -> str:
    """Return the path /VERSION/…/copy that copies an item.

    The item is an address, with or without a version or a host, or a bare id. Raises ValueError.
    """
    text = item.strip()
    if re.match(r"https?://", text):
        text = urlsplit(text).path
    address = _encoded(text.strip("/"))
    if not address:
        raise ValueError("is empty; name an item, for example me/drive/items/01ABC")
    version, rest = _versioned(address)
    if "/" not in rest:
        rest = f"me/drive/items/{rest}"
    if ":/" in rest and not rest.endswith(":"):
        rest += ":"
    return f"/{version}/{rest}/copy"


def graph_path(address: str) -> str:
    """Return the path /VERSION/… of a Graph URL, or of a path with or without a version; its query stays.

    Raises ValueError.
    """
    text = address.strip()
    if re.match(r"https?://", text):
        text = urlsplit(text)._replace(scheme="", netloc="").geturl()
    path, mark, query = text.partition("?")
    version, rest = _versioned(_encoded(path.strip("/")))
    if not rest:
        raise ValueError("is empty; name what is to be started, for example teams/ID/clone")
    return f"/{version}/{rest}{mark}{_encoded(query)}"


def json_body(given: str) -> bytes:
    """Return a JSON object that is given as such, in a file, or for `-` on standard input. Raises ValueError."""
    try:
        text = given if given.lstrip().startswith("{") else _text(given)
        is_object = isinstance(json.loads(text), dict)
    except OSError as error:
        raise ValueError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise ValueError('is no JSON object; write one, such as {"renameAs":"Copy"}, or name a file that holds one')
    return text.encode()


def header(text: str) -> tuple[str, str]:
    """Return the name and the value of a header that is written as NAME: VALUE. Raises ValueError."""
    name, colon, value = text.partition(":")
    value = value.strip()
    if not (colon and re.fullmatch(r"[A-Za-z0-9-]+", name) and value.isascii() and value.isprintable()):
        raise ValueError("is not a header; write it like 'Prefer: respond-async'")
    if name.lower() in OWN_HEADERS:
        raise ValueError("is a header that the command sets itself, or a secret, which no argument may hold")
    return name, value


def target(to: str) -> dict[str, str]:
    """Return the parentReference of DRIVE-ID/FOLDER-ID, or of /path in the user's own drive. Raises ValueError."""
    text = to.strip()
    if text.startswith("/"):
        return {"path": f"/drive/root:{text.rstrip('/')}"}
    drive, _, folder = text.partition("/")
    if not drive or not folder or "/" in folder:
        raise ValueError("is not a target; write DRIVE-ID/FOLDER-ID, or /path/of/a/folder in your own drive")
    return {"driveId": drive, "id": folder}


def job_url(text: str, gateway: str) -> str:
    """Return the URL of one job, without /events and query. Raises ValueError, and BadParameter for a wrong gateway.

    `text` is the URL that the gateway returned, with or without /events, or a bare id at `gateway`.
    """
    if re.fullmatch(r"[\w-]+", text, re.ASCII):
        return f"{parsed(origin, gateway, '--gateway')}/jobs/{text}"
    parts = _split(text, "is not a URL; write it as the gateway returned it: http://127.0.0.1:8000/jobs/…")
    path = parts.path.rstrip("/").removesuffix("/events")
    if not re.fullmatch(r"(.*/)?jobs/[^/]+", path):
        raise ValueError("is not a job's URL; a job's URL ends in /jobs/ and the job's id")
    return f"{parts.scheme}://{parts.netloc}{path}"


def origin(gateway: str) -> str:
    """Return a gateway's URL without a trailing slash. Raises ValueError."""
    parts = _split(gateway, "is not a gateway's URL; write it like http://127.0.0.1:8000")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def receiver_url(text: str) -> str:
    """Return the URL of a receiver of callbacks as it was written. Raises ValueError."""
    _split(text, "is not a receiver's URL; write it like http://localhost:3000/hook")
    return text


def printable(text: str) -> str:
    """Return a label for people. Raises ValueError."""
    from gateway.jobs.request import LONGEST_LABEL, is_label

    if not is_label(text):
        raise ValueError(f"is not a label; write 1 to {LONGEST_LABEL} printable characters")
    return text


def kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds of events in a list with commas. Raises ValueError."""
    from gateway.core.callback import KINDS

    given = {word.strip() for word in text.split(",")}
    if not given <= {*KINDS}:
        raise ValueError(f"is not a list of kinds; write one or more of {', '.join(KINDS)}, with commas between them")
    return tuple(kind for kind in KINDS if kind in given)


def _split(url: str, complaint: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is not a number, an incomplete IPv6 address
        whole = False
    if not whole or not url.isprintable() or " " in url:
        raise ValueError(complaint)
    return parts


def _text(file: str) -> str:
    """Return what a file holds, or standard input for `-`. Raises OSError and UnicodeError."""
    return sys.stdin.read() if file == "-" else Path(file).read_text()


def _versioned(address: str) -> tuple[str, str]:
    """Split an address of Graph into its version, v1.0 if it has none, and the rest."""
    version, _, rest = address.partition("/")
    return (version, rest) if version in VERSIONS else (VERSIONS[0], address)


def _encoded(address: str) -> str:
    """Percent-encode the characters that a path cannot contain; existing percent-encodings stay."""
    percent = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", address)
    return quote(percent, safe="/:!$&'()*+,;=@%~")


def command() -> str:
    """Return the shell command that runs this program again."""
    called = Path(sys.argv[0])
    if called.name != "gateway":
        return f"{shlex.quote(sys.executable)} -m gateway"
    return "gateway" if shutil.which("gateway") else shlex.quote(str(called))
