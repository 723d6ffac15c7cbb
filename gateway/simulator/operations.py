"""Operations whose status asks for a token: the requests that start them, one row for each, and their status resources.

A path of the table stands behind the version. In it, a name in braces is the part of the request's path that has this
name, the operation's id ({operation}), or the result's ({result}).
"""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from gateway.simulator.answers import TEXT, Answer, document, encoded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_OWNER = "(?P<owner>me|(?:users|groups|sites)/[^/]+)"
_DRIVE = "(?:me/drive|(?:me/)?drives/[^/]+|(?:users|groups|sites)/[^/]+/drives?(?:/[^/]+)?)"
_ITEM = f"(?P<item>{_DRIVE}/(?:root|items/[^/:]+)(?::/[^:]+:)?)"
_BEGINNING = 0.2  # the part of its time for which an operation has not started


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A request that starts an operation, and all in which its operations differ from others."""

    action: str
    method: str = "POST"
    path: str  # a regular expression, whose groups are parts
    needs_body: bool = False
    needs_prefer: bool = False  # without Prefer: respond-async the result is the response
    at_once: int = 0  # status of a response that is the result; 0: there is none
    header: str = "Location"
    relative: bool = False  # the header is a path without a version
    status: str
    operation: str = "{uuid}"  # the operation's id
    content_location: str = ""
    body: bytes = b""  # of the 202
    words: tuple[str, str, str, str] = ("notStarted", "running", "succeeded", "failed")
    other_words: tuple[str, str, str, str] = ("notStarted", "inProgress", "succeeded", "failed")
    fixed: Mapping[str, Any] = field(default_factory=dict)  # in each state
    percent: str = ""  # the field, in which a whole number stands
    percent_text: bool = False  # … as text, and only until the end
    result: str = ""
    result_part: str = ""  # the part that is the result's id; empty: a new id
    makes: bool = True  # the result is new; otherwise it is there before
    result_id: str = "resourceId"
    result_location: str = "resourceLocation"
    failure: Mapping[str, Any]  # fields of a failed state
    forgotten: float = math.inf  # seconds without a poll after which the operation is gone


_PUBLIC_ERROR = {
    "error": {
        "code": "accessDenied",
        "message": "Access denied",
        "target": "resource",
        "details": [{"code": "accessDenied", "message": "The caller may not write here.", "target": "resource"}],
        "innerError": {"code": "notAllowed", "message": "The policy of the tenant does not allow it."},
    }
}
_NESTED_ERROR = {
    "error": {
        "code": "internalServerError",
        "message": "An internal server error occurred while processing the request.",
        "innerError": {
            "code": "internalServerErrorUncategorized",
            "message": "An unspecified error has occurred.",
            "innerError": {"code": "GenericFileOpenError", "message": "The workbook cannot be opened."},
        },
    }
}


def _of_team(action: str, path: str, status: str = "/teams('{team}')/operations('{operation}')", **more: Any) -> Kind:
    facts: dict[str, Any] = {
        "relative": True,
        "words": ("notStarted", "inProgress", "succeeded", "failed"),
        "other_words": ("notStarted", "running", "succeeded", "failed"),
        "fixed": {"operationType": action, "attemptsCount": 1, "error": None},
        "result": "/teams('{result}')",
        "result_id": "targetResourceId",
        "result_location": "targetResourceLocation",
        "failure": {"attemptsCount": 3, "error": {"code": "TeamUnavailable", "message": "The team was not found."}},
    }
    return Kind(action=action, path=path, status=status, **facts | more)


def _of_channel(action: str) -> Kind:
    path = rf"/teams/(?P<team>[^/]+)/channels/(?P<channel>[^/]+)/{action.removesuffix('Channel')}"
    result = "/teams('{team}')/channels('{result}')"
    return _of_team(
        action, path, "/teams/{team}/operations/{operation}", result=result, result_part="channel", makes=False
    )


def _of_notebook(action: str, of: str, result: str) -> Kind:
    return Kind(
        action=action,
        path=rf"/{_OWNER}/onenote/{of}/[^/]+/{action}",
        header="Operation-Location",
        status="/{owner}/onenote/operations/{operation}",
        words=("notstarted", "running", "completed", "failed"),
        other_words=("NotStarted", "Running", "Completed", "Failed"),
        percent="percentComplete",
        percent_text=True,
        result=f"/{{target}}/onenote/{result}/{{result}}",
        failure={
            "error": {"code": "20102", "message": "The specified resource ID does not exist."},
            "@api.diagnostics": "20102: the notebook was not found",
        },
    )


KINDS = (
    _of_team(
        "createTeam",
        "/teams",
        "/teams('{result}')/operations('{operation}')",
        needs_body=True,
        content_location="/teams('{result}')",
    ),
    _of_team("cloneTeam", r"/teams/(?P<team>[^/]+)/clone"),
    _of_team("archiveTeam", r"/teams/(?P<team>[^/]+)/archive", result_part="team", makes=False),
    _of_team("unarchiveTeam", r"/teams/(?P<team>[^/]+)/unarchive", result_part="team", makes=False),
    _of_channel("archiveChannel"),
    _of_channel("unarchiveChannel"),
    Kind(
        action="addCopyFromContentTypeHub",
        path=r"/(?P<site>sites/[^/]+(?:/lists/[^/]+)?)/contentTypes/addCopyFromContentTypeHub",
        needs_body=True,
        at_once=200,
        status="/{site}/operations/{operation}",
        operation="contentTypeCopy,{contentTypeId}",
        fixed={"type": "contentTypeCopy", "statusDetail": None, "error": None},
        percent="percentageComplete",
        result="/{site}/contentTypes/{result}",
        result_part="contentTypeId",
        failure=_PUBLIC_ERROR,
    ),
    Kind(
        action="createSession",
        path=rf"/{_ITEM}/workbook/createSession",
        needs_prefer=True,
        at_once=201,
        status="/{item}/workbook/operations/{operation}",
        body=b"{}",
        other_words=("NotStarted", "Running", "Completed", "Failed"),
        result="/{item}/workbook/sessionInfoResource(key='{result}')",
        result_id="",
        failure=_NESTED_ERROR,
        forgotten=240,
    ),
    _of_notebook("copyNotebook", "notebooks", "notebooks"),
    _of_notebook("copyToNotebook", "sections", "sections"),
    _of_notebook("copyToSectionGroup", "sections", "sections"),
    _of_notebook("copyToSection", "pages", "pages"),
    Kind(
        action="createCommunity",
        path="/employeeExperience/communities",
        needs_body=True,
        header="Operation-Location",
        status="/employeeExperience/engagementAsyncOperations('{operation}')",
        fixed={"operationType": "createCommunity", "statusDetail": None},
        result="/employeeExperience/communities/{result}",
        failure={"statusDetail": "The community was not created."} | _PUBLIC_ERROR,
    ),
    Kind(
        action="updateSchema",
        method="PATCH",
        path=r"/external/connections/(?P<connection>[^/]+)/schema",
        needs_body=True,
        status="/external/connections/{connection}/operations/{operation}",
        words=("inprogress", "inprogress", "completed", "failed"),
        other_words=("unspecified", "inprogress", "completed", "failed"),
        fixed={"error": None},
        result="/external/connections/{connection}/schema",
        result_id="",
        result_location="",
        failure=_PUBLIC_ERROR,
    ),
)
_KEY = re.compile(r"\('?([^')]*)'?\)")
_PATTERNS = [(kind, re.compile(kind.path)) for kind in KINDS]
_BODY_NAMES = ("displayName", "renameAs", "id", "contentTypeId")


@dataclass(frozen=True, slots=True)
class Request:
    """A request that starts an operation."""

    kind: Kind
    version: str
    parts: Mapping[str, str]  # raw
    body: Mapping[str, Any]

    def candidates(self) -> list[str]:
        """The ids of the path, the last one first, and the names of the body: one may be a scenario's name."""
        segments = [unquote(one) for part in self.parts.values() for one in re.split("[/:]", part)]
        return [*reversed(segments), *(str(self.body[name]) for name in _BODY_NAMES if name in self.body)]


def segments(path: str) -> str:
    """Return a raw path decoded, with its keys as segments: Graph reads `/teams('1')` and `/teams/1` alike."""
    return _KEY.sub(r"/\1", unquote(path))


def shown_path(kind: Kind) -> str:
    """Return the path of a kind's requests as people write it."""
    path = kind.path.replace(_OWNER, "{owner}").replace(_ITEM, "{item}").replace("(?:/lists/[^/]+)?", "[/lists/{id}]")
    return re.sub(r"\(\?P<\w+>(.*?)\)(?=/)", r"\1", path).replace("[^/]+", "{id}")


def parse(method: str, raw_path: str, body: bytes) -> Request | None:
    """Return what a request starts, None when that is no operation. A body that is no object counts as empty."""
    version, _, _ = raw_path[1:].partition("/")
    path = raw_path.removeprefix(f"/{version}").replace("/microsoft.graph.", "/")
    for kind, pattern in _PATTERNS:
        found = pattern.fullmatch(path) if kind.method == method else None
        if found is not None:
            parts = {"id": path.split("/")[-2]} | found.groupdict()
            return Request(kind, version, parts, _object(body))
    return None


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


class Progress(Protocol):
    """How far an operation is at a poll, and when that is."""

    @property
    def now(self) -> datetime: ...

    @property
    def elapsed(self) -> float: ...

    @property
    def done(self) -> bool: ...

    @property
    def part(self) -> float: ...

    @property
    def percent(self) -> float: ...


@dataclass(frozen=True, slots=True)
class StatusResource:
    """The resource that has an operation's status, and the result that it leads to."""

    kind: Kind
    version: str
    origin: str
    parts: Mapping[str, str]
    body: Mapping[str, Any]  # of the request

    @property
    def path(self) -> str:
        return f"/{self.version}{self.kind.status.format_map(self.parts)}"

    @property
    def result_path(self) -> str:
        """The path of the result, without a version."""
        return self.kind.result.format_map(self.parts)

    def accepted(self, *, quoted: bool = True, body: bytes | None = None) -> Answer:
        """Return the 202 with the status's URL; without quotes some of Graph's documents write it."""
        location = self.kind.status.format_map(self.parts)
        if not self.kind.relative:
            location = f"{self.origin}{self.path}"
        headers = {self.kind.header: location if quoted else location.replace("'", "")}
        if self.kind.content_location:
            headers["Content-Location"] = self.kind.content_location.format_map(self.parts)
        if body is None:
            return Answer(202, self.kind.body, TEXT, headers)
        return Answer(202, body, headers=headers)

    def at_once(self) -> Answer:
        """Return the response with the result; the 202 where Graph has no other."""
        return document(self.kind.at_once, self.result()) if self.kind.at_once else self.accepted()

    def state(self, moment: Progress, words: tuple[str, str, str, str] | None = None) -> dict[str, Any]:
        """Return the state at a moment, with the table's words, or others."""
        kind, done = self.kind, moment.done
        first, middle, last, _ = words or kind.words
        word = last if done else first if moment.part < _BEGINNING else middle
        value: dict[str, Any] = {"id": self.parts["operation"], "status": word}
        if kind.action != "createSession":
            value["createdDateTime"] = _stamp(moment.now - timedelta(seconds=moment.elapsed))
            value["lastActionDateTime"] = _stamp(moment.now)
        value |= kind.fixed
        if kind.percent and not (done and kind.percent_text):
            percent = round(moment.percent)
            value[kind.percent] = str(percent) if kind.percent_text else percent
        if done or kind.relative:
            value |= self._told_result()
        return value

    def failed(self, moment: Progress, error: Mapping[str, Any] | None = None) -> Answer:
        """Return the state of a failed operation, with the table's fields of it, or others."""
        state = self.state(moment)
        if not self.kind.relative:
            state = {name: value for name, value in state.items() if name not in self._told_result()}
        state.pop(self.kind.percent, None)
        return document(200, state | {"status": self.kind.words[3]} | dict(error or self.kind.failure))

    def _told_result(self) -> dict[str, Any]:
        base = "" if self.kind.relative else f"{self.origin}/{self.version}"
        identity = unquote(self.parts["result"])
        values = {self.kind.result_id: identity, self.kind.result_location: base + self.result_path}
        return {name: value for name, value in values.items() if name}

    def result(self) -> dict[str, Any]:
        """Return the result as its GET does: what the request's body says of it, under its id."""
        return {**self.body, "displayName": self.parts["name"], "id": unquote(self.parts["result"])}


def status_resource(request: Request, origin: str, operation: str = "") -> StatusResource:
    """Return the status resource of a new operation; `operation` is its id, empty for a new one."""
    kind, body = request.kind, request.body
    group = body.get("groupId")
    parts = {
        **request.parts,
        "uuid": operation or str(uuid.uuid4()),
        "new": str(uuid.uuid4()),
        "contentTypeId": str(body.get("contentTypeId", "0x0101")),
        "name": str(body.get("displayName", body.get("renameAs", ""))),
        "target": f"groups/{group}" if isinstance(group, str) else request.parts.get("owner", ""),
    }
    parts["result"] = parts[kind.result_part or "new"]
    parts["operation"] = kind.operation.format_map(parts)
    return StatusResource(kind, request.version, origin, parts, body)


def body_of(status: StatusResource) -> bytes:
    """Return the state of a started operation, as some responses to the start hold it, undocumented."""
    return encoded({"id": status.parts["operation"], "status": status.kind.words[0]})


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
