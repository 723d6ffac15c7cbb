"""Graph's rules for a copy and its siblings: immediate refusals, the target, and the name of the new item."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.simulator.answers import Answer, GraphError, document
from gateway.simulator.drives import FULL, Address, Item, Tree, reference
from gateway.simulator.scenario import DOCUMENTED_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.simulator.catalogue import Choice

BEHAVIOURS = ("fail", "rename", "replace")


@dataclass(slots=True)
class Plan:
    """A copy, or a sibling of one, that was accepted: what is copied, and to where."""

    source: Item
    target: Item
    name: str
    children_only: bool = False
    replaced: Item | None = None
    clash: bool = False  # a name conflict that only the monitor reports


def not_found() -> GraphError:
    return GraphError(404, "itemNotFound", "The resource could not be found.", inner=("itemDoesNotExist",))


def source_item(tree: Tree, address: Address, choice: Choice, now: float) -> Item:
    """Return the item at an address. When the caller selected a scenario, a missing item gets a stand-in.

    Raises GraphError (404).
    """
    item = tree.find(address, now)
    if item is None and choice.named:
        root = tree.root(address.drive, make=True)
        return Item(address.leaf, address.leaf, address.drive, root, DOCUMENTED_SIZE, folder=not choice.scenario.file)
    if item is None:
        raise not_found()
    return item


def plan(tree: Tree, address: Address, body: bytes, choice: Choice, now: float) -> Plan:
    """Return the plan of a copy request; `now` is a time of the simulator's clock. Raises GraphError for a refusal."""
    request = _request(body)
    source = source_item(tree, address, choice, now)
    children_only = request.get("childrenOnly") is True
    _check_children_only(source, request, wanted=children_only)
    targets = [_folder(tree, named, now, make=choice.named) for named in _targets(source, address, request, choice)]
    target = targets[0]
    if target is not targets[-1]:
        raise _invalid("The id and the path of parentReference are not the same item.")
    above: Item | None = target
    while above is not None and not children_only:
        if above is source:
            raise _invalid("An item cannot be copied into itself.")
        above = above.parent
    if source.shut or target.shut:
        raise GraphError(403, "accessDenied", "Access denied")
    if target.drive == FULL:
        raise GraphError(507, "quotaLimitReached", "Insufficient Space Available")
    made = Plan(source, target, request.get("name") or source.name, children_only)
    strict = choice.scenario.strict or not choice.named
    if not children_only:
        at_once = "name" in request or choice.scenario.strict
        _resolve_name(tree, made, choice.behaviour, strict=strict, at_once=at_once)
    elif strict and choice.behaviour == "fail":
        made.clash = not target.children.keys().isdisjoint(source.children)
    return made


def _plan_move(tree: Tree, address: Address, body: bytes, choice: Choice, now: float) -> Plan:
    """Return the plan of a move, which stays within its drive. Raises GraphError for a refusal."""
    request = _request(body)
    source = source_item(tree, address, choice, now)
    if source.parent is None:
        raise _invalid("Cannot move the root folder.")
    if (request.get("parentReference") or {}).get("id") == "root":
        raise _invalid("A move names its target by an id other than root, or by a path.")
    targets = [_folder(tree, named, now, make=choice.named) for named in _targets(source, address, request, choice)]
    target = targets[-1]
    if target.drive != source.drive:
        raise _invalid("An item cannot be moved to another drive.")
    above: Item | None = target
    while above is not None:
        if above is source:
            raise _invalid("An item cannot be moved into itself.")
        above = above.parent
    if source.shut or target.shut:
        raise GraphError(403, "accessDenied", "Access denied")
    name = request.get("name") or source.name
    if target.children.get(name.lower()) not in (None, source):
        raise GraphError(409, "nameAlreadyExists", "The specified item name already exists.")
    return Plan(source, target, name)


def change(
    tree: Tree, address: Address, headers: Mapping[str, str], body: bytes, choice: Choice, now: float
) -> Answer | Plan:
    """Return the answer to a move, an archive or a label that is done at once, else its plan.

    `headers` have names in lower case; `now` is a time of the simulator's clock. Raises GraphError for a refusal.
    """
    if not address.action:
        return _move(tree, address, headers, body, choice, now)
    item = source_item(tree, address, choice, now)
    if item.shut:
        raise GraphError(403, "accessDenied", "Access denied")
    if address.action == "assignSensitivityLabel":
        if item.parent is None:
            raise _invalid("Cannot label the root folder.")
        if not isinstance(_request(body).get("sensitivityLabelId"), str):
            raise _invalid("The sensitivityLabelId is no text.")
        return Plan(item, item, item.name)
    asynchronous = "respond-async" in headers.get("prefer", "").lower()
    if item.folder and not asynchronous:
        raise _invalid("A folder requires the header Prefer: respond-async.")
    if item.folder:
        return Plan(item, item, item.name)
    if asynchronous:
        raise GraphError(400, "notSupported", "Prefer: respond-async is not supported for a file.")
    if address.action == "archive":
        return Answer(204, content_type=None)
    value = item.document(now)
    return document(200, value | {"file": value["file"] | {"archiveStatus": "reactivating"}})


def is_move(body: bytes) -> bool:
    """Return whether the body of a PATCH says where to; a body that is no object does not."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return False
    return isinstance(request, dict) and "parentReference" in request


def update(tree: Tree, address: Address, headers: Mapping[str, str], body: bytes, choice: Choice, now: float) -> Answer:
    """Change an item's name, description or times where it is. Raises GraphError for a refusal."""
    made = _plan_move(tree, address, body, choice, now)
    _check_match(made.source, headers)
    request = _request(body)
    tree.move(made.source, made.target, made.name)
    times = request.get("fileSystemInfo") or {}
    made.source.modified = times.get("lastModifiedDateTime", made.source.modified)
    made.source.description = request.get("description", made.source.description)
    return document(200, made.source.document(now), {"ETag": made.source.etag})


def _check_match(item: Item, headers: Mapping[str, str]) -> None:
    if headers.get("if-match", "*") not in ("*", item.etag):
        raise GraphError(412, "resourceModified", "ETag does not match current item's value")


def _move(
    tree: Tree, address: Address, headers: Mapping[str, str], body: bytes, choice: Choice, now: float
) -> Answer | Plan:
    made = _plan_move(tree, address, body, choice, now)
    _check_match(made.source, headers)
    if choice.named:
        return made
    tree.move(made.source, made.target, made.name)
    return document(200, made.source.document(now), {"ETag": made.source.etag})


def _check_children_only(source: Item, request: dict[str, Any], *, wanted: bool) -> None:
    if source.parent is None and not wanted:
        raise _invalid("Cannot copy the root folder.")
    if wanted and not source.folder:
        raise _invalid("childrenOnly option is not valid for file items.")
    if wanted and "name" in request:
        raise _invalid("Cannot use name parameter alongside childrenOnly.")


def _request(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        raise _invalid("Unable to read JSON request payload.") from None
    reference_ = request.get("parentReference") if isinstance(request, dict) else None
    if not isinstance(request, dict) or not isinstance(reference_, dict | None):
        raise _invalid("The request is malformed or incorrect.")
    if not isinstance(request.get("name"), str | None):
        raise _invalid("The name is no text.")
    return request


def _invalid(message: str) -> GraphError:
    return GraphError(400, "invalidRequest", message)


def _targets(source: Item, address: Address, request: dict[str, Any], choice: Choice) -> list[Address]:
    """Return the target's address; two addresses when parentReference has both an id and a path."""
    beside = [] if source.parent is None else [Address("", source.drive, source.parent.id)]
    if choice.scenario.strays and beside:
        return beside
    wanted = request.get("parentReference") or {}
    drive = str(wanted.get("driveId") or choice.scenario.drive or address.drive)
    targets: list[Address] = []
    if wanted.get("path"):
        by_path = reference(str(wanted["path"]), drive)
        if by_path is None:
            raise _invalid("The path of parentReference is not understood.")
        targets.append(by_path)
    if wanted.get("id"):
        targets.append(Address("", drive, str(wanted["id"])))
    return targets or (beside if drive == source.drive else []) or [Address("", drive, None)]


def _folder(tree: Tree, address: Address, now: float, *, make: bool) -> Item:
    item = tree.find(address, now)
    if item is None and make:
        root = tree.root(address.drive, make=True)
        item = tree.find(Address("", address.drive, address.id), now)
        if item is None:
            item = tree.create(Item(str(address.id), str(address.id), address.drive, root))
        for name in address.path:
            below = item.children.get(name.lower())
            item = below or tree.create(Item(f"{item.id}.{name}", name, address.drive, item))
    if item is None:
        raise not_found()
    if not item.folder:
        raise _invalid("The target is no folder.")
    return item


def _resolve_name(tree: Tree, made: Plan, behaviour: str, *, strict: bool, at_once: bool) -> None:
    if behaviour not in BEHAVIOURS:
        raise _invalid("@microsoft.graph.conflictBehavior is one of fail, rename, replace.")
    taken = made.target.children.get(made.name.lower())
    if taken is None:
        return
    if behaviour == "rename" or not strict:
        made.name = tree.free_name(made.name, made.target, file=not made.source.folder)
    elif behaviour == "replace" and not taken.folder and not made.source.folder and taken is not made.source:
        made.replaced = taken
    elif at_once:
        raise GraphError(409, "nameAlreadyExists", "The specified item name already exists.")
    else:
        made.clash = True
