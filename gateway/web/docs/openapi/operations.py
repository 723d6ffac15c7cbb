"""The OpenAPI document's part on the operations whose status asks for a token, made from their table."""

from __future__ import annotations

import re
from typing import Any

from gateway.graph.operations import OPERATIONS, Operation
from gateway.web.docs.openapi.components import body, parameter, ref
from gateway.web.docs.openapi.copies import DRIVES, start
from gateway.web.docs.openapi.schemas import NEW_CALLBACK, OF_TEAM, TEAM, just_started

_TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "createTeam": (
        "Create a team",
        {"template@odata.bind": "https://graph.microsoft.com/v1.0/teamsTemplates('standard')", "displayName": "Team"},
    ),
    "cloneTeam": ("Clone a team", {"displayName": "Team 2", "partsToClone": "apps,tabs", "visibility": "public"}),
    "archiveTeam": ("Archive a team", {"shouldSetSpoSiteReadOnlyForMembers": True}),
    "unarchiveTeam": ("Unarchive a team", {}),
    "archiveChannel": ("Archive a channel", {"shouldSetSpoSiteReadOnlyForMembers": True}),
    "unarchiveChannel": ("Unarchive a channel", {}),
    "addCopyFromContentTypeHub": ("Add a copy of a content type from the hub", {"contentTypeId": "0x0101"}),
    "createSession": ("Create a workbook session", {"persistChanges": True}),
    "copyNotebook": ("Copy a notebook", {"renameAs": "Notebook 2"}),
    "copyToNotebook": ("Copy a section to a notebook", {"id": "1-2", "renameAs": "Section 2"}),
    "copyToSectionGroup": ("Copy a section to a section group", {"id": "1-2", "renameAs": "Section 2"}),
    "copyToSection": ("Copy a page to a section", {"id": "1-2"}),
    "createCommunity": ("Create a community", {"displayName": "Community", "privacy": "public"}),
    "updateSchema": ("Define the schema of an external connection", {"baseType": "microsoft.graph.externalItem"}),
}
_OF = "Graph's own request. What upstream answers with `202` and a status URL of its own becomes a job, as for a copy; "
_DESCRIPTION = (
    _OF + "any other answer comes back as it is. The caller's token is kept in memory, for this job alone, to ask for "
    "its status; when it has ended, the job's `trouble` is `tokenRequired`: see `PUT /jobs/{job}/token`."
)
_SESSION = (
    " With `Prefer: respond-async`; without, Graph answers with the session itself, and there is no job. A job's "
    "`resource` reads the session's id, at Graph."
)


def _asking() -> list[Operation]:
    return [operation for operation in OPERATIONS if operation.asks_for_token]


def paths() -> dict[str, Any]:
    """The routes, by path. Those of an item have one form for each drive here; all forms are forwarded."""
    found: dict[str, Any] = {}
    for operation in _asking():
        for name, path in _forms(operation).items():
            named = re.findall(r"\{(\w+)\}", path)
            summary, _ = _TEXTS[operation.action]
            description = _DESCRIPTION + (_SESSION if operation.action == "createSession" else "")
            content = start(name, summary, description, _body(operation), "If-Match", of="Operation")
            parts = [ref("parameters", part) for part in ("version", *named)]
            found[f"/{{version}}/{path}"] = {"parameters": parts, operation.method.lower(): content}
    return found


def _body(operation: Operation) -> str:
    return f"Of{operation.action[:1].upper()}{operation.action[1:]}"


def responses(base: str, of_copies: dict[str, Any]) -> dict[str, Any]:
    """Those to a copy and its siblings, with examples of these operations."""
    place = f"/v1.0/teams('{TEAM}')"
    job = {**just_started(base), **OF_TEAM}
    started = {**job, "operationLocation": f"{place}/operations('dc1e8c4f-5a0b-4e0a-9c3e-2a8f0d3b6c11')"}
    ended = {**job, "status": "completed", "percentageComplete": 100.0, "resourceId": TEAM, "resource": place}
    return {
        "OperationAccepted": _with_examples(
            of_copies["CopyAccepted"], started=started, withCallback={**started, "callback": NEW_CALLBACK}
        ),
        "OperationDone": _with_examples(of_copies["CopyDone"], done={"id": "0x0101", "name": "Document"}, ended=ended),
    }


def _with_examples(response: dict[str, Any], **values: dict[str, Any]) -> dict[str, Any]:
    examples = {name: {"value": value} for name, value in values.items()}
    content = response["content"]["application/json"] | {"examples": examples}
    return response | {"content": {"application/json": content}}


def request_bodies() -> dict[str, Any]:
    found = {}
    for operation in _asking():
        content = body(ref("schemas", "OperationRequest"), example=_TEXTS[operation.action][1])
        found[_body(operation)] = content if operation.needs_body else content | {"required": False}
    return found


def _forms(operation: Operation) -> dict[str, str]:
    """The forms of a path, by the names of their operations."""
    action, path = operation.action, operation.path
    if "{item}" in path:
        return {
            f"{action}{drive}": path.replace("{item}", f"{prefix}/items/{{itemId}}") for drive, prefix in DRIVES.items()
        }
    if "{owner}" in path:
        forms = {f"{action}OfMine": "me", f"{action}OfOwner": "{owners}/{ownerId}"}
        return {name: _with_ids(path.replace("{owner}", owner)) for name, owner in forms.items()}
    if "[lists/{id}/]" in path:
        forms = {action: "", f"{action}ToList": "lists/{id}/"}
        return {name: _with_ids(path.replace("[lists/{id}/]", part)) for name, part in forms.items()}
    return {action: _with_ids(path)}


def _with_ids(path: str) -> str:
    """Each id named for what stands before it: teams/{teamId}."""
    return re.sub(r"(\w+)s/\{id\}", r"\1s/{\1Id}", path)


_EXAMPLES = {
    "team": "172b0cce-e65d-44ce-9a49-91d9f2e8491e",
    "channel": "19:4a95f7d8db4c4e7fae857bcebe0623e6@thread.tacv2",
    "site": "contoso.sharepoint.com,a5a4dd5b-4aca-4ba0-8d2b-3e8d6b8a2e3b,2f0d2b62-9c1a-4c73-9a4b-2a2f8f1d1f7a",
    "list": "Documents",
    "notebook": "1-e13f257d-78c6-46cf-ae8c-13686517ac5f",
    "section": "1-8a2c-4f6b-9d1e",
    "page": "1-17dd63a1-3bb6",
    "connection": "contosohr",
}
PARAMETERS = {
    f"{name}Id": parameter(
        f"{name}Id", "path", f"the {name}'s id", example, required=True, pattern="^[A-Za-z0-9!:,@._-]*[A-Za-z0-9]$"
    )
    for name, example in _EXAMPLES.items()
}
