"""Graph's rules for a copy: immediate refusals, the target, and the name of the new item."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.simulator.answers import GraphError
from gateway.simulator.drives import FULL, Address, Item, Tree, reference
from gateway.simulator.scenario import DOCUMENTED_SIZE

if TYPE_CHECKING:
    from gateway.simulator.catalogue import Choice

BEHAVIOURS = ("fail", "rename", "replace")


@dataclass(slots=True)
class Plan:
    """A copy that was accepted: what is copied, and to where."""

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
