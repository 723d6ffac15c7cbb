"""The drives and their items: a small predefined tree to which copies add, and Graph's addresses of its items."""

from __future__ import annotations

import base64
import re
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from gateway.simulator.scenario import DOCUMENTED_SIZE

ALWAYS = float("-inf")
PERSONAL = "b!personal"
LIBRARY = "b!library"
FULL = "b!full"
CREATED = "2026-01-02T03:04:05Z"
_ITEM = re.compile(
    r"/(?P<version>v1\.0|beta)"
    r"/(?:(?P<owner>me|users/[^/]+|groups/[^/]+|sites/[^/]+)/)?drive(?:s/(?P<drive>[^/]+))?"
    r"/(?:root|items/(?P<id>[^/:]+))"
    r"(?::/(?P<path>[^:]+):?)?"
    r"(?:/(?:microsoft\.graph\.)?(?P<action>copy|archive|unarchive|assignSensitivityLabel))?"
)
_REFERENCE = re.compile(
    r"/?(?:me/)?drive(?:s/(?P<drive>[^/:]+))?/(?:root|items/(?P<id>[^/:]+))(?::(?P<path>(?:/[^:]*)?):?)?"
)


@dataclass(slots=True, eq=False)
class Item:
    """A file or folder; a root has no parent."""

    id: str
    name: str
    drive: str
    parent: Item | None = None
    size: int = DOCUMENTED_SIZE
    folder: bool = True
    shut: bool = False  # copying from it or to it is 403
    appears: float = ALWAYS  # when it comes into being, by the simulator's clock
    fills: float = 0.0  # seconds from then until it has its full size
    hidden: int = 0  # number of reads that are still 404
    modified: str = CREATED  # as a caller may set it, in fileSystemInfo
    description: str = ""
    children: dict[str, Item] = field(default_factory=dict)  # by name in lower case: SharePoint ignores case

    @property
    def etag(self) -> str:
        return f'"{{{self.id}}},1"'

    def path(self) -> str:
        """Return the path as in an itemReference, percent-encoded."""
        if self.parent is None:
            return f"/drives/{self.drive}/root:"
        return f"{self.parent.path()}/{quote(self.name)}"

    def document(self, now: float) -> dict[str, Any]:
        """Return the driveItem at a time of the simulator's clock."""
        part = min(1.0, max(0.0, (now - self.appears) / self.fills)) if self.fills else 1.0
        value: dict[str, Any] = {"id": self.id, "name": self.name, "size": round(self.size * part), "eTag": self.etag}
        value["lastModifiedDateTime"] = self.modified
        value["fileSystemInfo"] = {"createdDateTime": CREATED, "lastModifiedDateTime": self.modified}
        if self.description:
            value["description"] = self.description
        if self.folder:
            value["folder"] = {"childCount": sum(child.appears <= now for child in self.children.values())}
        else:
            value["file"] = {"mimeType": "application/octet-stream"}
        if self.parent is None:
            return value | {"root": {}, "parentReference": {"driveId": self.drive, "driveType": "business"}}
        parent = {"driveId": self.drive, "driveType": "business", "id": self.parent.id, "path": self.parent.path()}
        return value | {"parentReference": parent}


class Tree:
    """All drives with their items, those included that do not exist yet."""

    def __init__(self) -> None:
        self._roots: dict[str, Item] = {}
        self._items: dict[tuple[str, str], Item] = {}
        self._numbers: Counter[tuple[str, str]] = Counter()
        for drive in (PERSONAL, LIBRARY, FULL):
            self.root(drive, make=True)
        personal, library = self._roots[PERSONAL], self._roots[LIBRARY]
        self.create(Item("01MOWKYVDOCUMENTS", "Documents", PERSONAL, personal))
        large = self.create(Item("01MOWKYVLARGEFOLDER1", "LargeFolder1", PERSONAL, personal))
        self.create(Item("01MOWKYVPART1", "part 1.bin", PERSONAL, large, size=8000, folder=False))
        self.create(Item("01MOWKYVPART2", "part 2.bin", PERSONAL, large, size=4019, folder=False))
        self.create(Item("01MOWKYVREPORT", "report.docx", PERSONAL, personal, size=2048, folder=False))
        self.create(Item("01MOWKYVPRIVATE", "Private", PERSONAL, personal, shut=True))
        self.create(
            Item("D4648F06C91D9D3D!54927", "Photos", PERSONAL, personal)
        )  # the form of ids in consumer OneDrive
        self.create(Item("odd,50%!id", "50% off, really", PERSONAL, personal))
        self.create(Item("01LIBRARYSHARED", "Shared", LIBRARY, library))

    def root(self, drive: str, *, make: bool = False) -> Item | None:
        """Return a drive's root, None for an unknown drive; `make` creates the drive."""
        if drive not in self._roots and make:
            self._roots[drive] = self.create(Item(f"01ROOT{drive.upper()}", "root", drive, size=0))
        return self._roots.get(drive)

    def find(self, address: Address, now: float) -> Item | None:
        """Return the item at an address, None when there is none at that time."""
        item = self.root(address.drive)
        if item and address.id not in (None, "root"):
            item = self._items.get((address.drive, str(address.id)))
        for name in address.path:
            item = item and item.children.get(name.lower())
        return item if item and item.appears <= now else None

    def holds(self, identity: str) -> bool:
        """Return whether any drive has an item with this id, even one that does not exist yet."""
        return any((drive, identity) in self._items for drive in self._roots)

    def create(self, item: Item) -> Item:
        self._items[item.drive, item.id] = item
        if item.parent is not None:
            item.parent.children[item.name.lower()] = item
        return item

    def remove(self, item: Item) -> None:
        del self._items[item.drive, item.id]
        if item.parent is not None:
            del item.parent.children[item.name.lower()]

    def move(self, item: Item, target: Item, name: str) -> None:
        """Move an item with its descendants into `target`, a folder of the same drive."""
        if item.parent is not None and item.parent.children.get(item.name.lower()) is item:
            del item.parent.children[item.name.lower()]
        item.parent, item.name = target, name
        self.create(item)

    def copy(self, source: Item, target: Item, *, identity: str, name: str, **facts: Any) -> Item:
        """Copy `source` and its descendants into `target`; `facts` are further fields of the new item."""
        inside = list(source.children.values())  # taken before: the copy may become one of them
        copied = Item(identity, name, target.drive, target, source.size, source.folder, **facts)
        copied.modified, copied.description = source.modified, source.description
        self.create(copied)
        for child in inside:
            self.copy(child, copied, identity=new_id(), name=child.name, appears=copied.appears)
        return copied

    def free_name(self, name: str, parent: Item, *, file: bool) -> str:
        """Return `name` with the lowest free number, which a file has before its extension."""
        stem, dot, extension = name.rpartition(".") if file and "." in name else (name, "", "")
        number = self._numbers[parent.id, name.lower()]
        while True:
            number += 1
            candidate = f"{stem} {number}{dot}{extension}"
            if candidate.lower() not in parent.children:
                # Stored, so that a thousand copies of one name do not each count from 1.
                self._numbers[parent.id, name.lower()] = number
                return candidate


def new_id() -> str:
    return "01MOWKYV" + base64.b32encode(secrets.token_bytes(17)).decode()[:26]


@dataclass(frozen=True, slots=True)
class Address:
    """The address of an item: a drive, and in it an id, a path, or a path below an id."""

    version: str
    drive: str
    id: str | None  # None and "root" mean the drive's root
    path: tuple[str, ...] = ()
    action: str = ""  # copy, archive, unarchive, assignSensitivityLabel; empty for the item itself

    @property
    def leaf(self) -> str:
        """The last segment of the address, which may be a scenario's name."""
        return self.path[-1] if self.path else self.id or "root"


def address(raw_path: str) -> Address | None:
    """Parse the percent-encoded path of a request, a slash at its end or not; None when it is not an item's."""
    found = _ITEM.fullmatch(raw_path.removesuffix("/"))
    if found is None or not (found["owner"] or found["drive"]):
        return None
    if found["drive"]:
        drive = unquote(found["drive"])
    else:
        drive = LIBRARY if found["owner"].startswith(("groups/", "sites/")) else PERSONAL
    identity = unquote(found["id"]) if found["id"] else None
    return Address(found["version"], drive, identity, _segments(found["path"]), found["action"] or "")


def reference(path: str, drive: str) -> Address | None:
    """Parse the path of an itemReference; None when it is not valid. `drive` is the drive of a path without one."""
    found = _REFERENCE.fullmatch(path)
    if found is None:
        return None
    return Address("", unquote(found["drive"] or drive), found["id"], _segments(found["path"]))


def _segments(path: str | None) -> tuple[str, ...]:
    return tuple(unquote(segment) for segment in (path or "").split("/") if segment)
