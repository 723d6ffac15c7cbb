"""How Graph addresses an item: drive, then an id or the root, then perhaps a path between colons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

PERSONAL = "b!personal"
LIBRARY = "b!library"
FULL = "b!full"

_ITEM = re.compile(
    r"/(?P<version>v1\.0|beta)"
    r"/(?:(?P<owner>me|users/[^/]+|groups/[^/]+|sites/[^/]+)/)?drive(?:s/(?P<drive>[^/]+))?"
    r"/(?:root|items/(?P<id>[^/:]+))"
    r"(?::/(?P<path>[^:]+):?)?"
    r"(?P<copy>/(?:microsoft\.graph\.)?copy)?"
)
_REFERENCE = re.compile(
    r"/?(?:me/)?drive(?:s/(?P<drive>[^/:]+))?/(?:root|items/(?P<id>[^/:]+))(?::(?P<path>(?:/[^:]*)?):?)?"
)


@dataclass(frozen=True, slots=True)
class Address:
    version: str
    drive: str
    id: str | None  # None and "root" are the drive's root
    path: tuple[str, ...] = ()
    copy: bool = False

    @property
    def leaf(self) -> str:
        """The last word of the address, which may be a scenario's name."""
        return self.path[-1] if self.path else self.id or "root"


def address(raw_path: str) -> Address | None:
    """What a path of a request, still percent-encoded, points at."""
    found = _ITEM.fullmatch(raw_path)
    if found is None or not (found["owner"] or found["drive"]):
        return None
    if found["drive"]:
        drive = unquote(found["drive"])
    else:
        drive = LIBRARY if found["owner"].startswith(("groups/", "sites/")) else PERSONAL
    identity = unquote(found["id"]) if found["id"] else None
    return Address(found["version"], drive, identity, _segments(found["path"]), bool(found["copy"]))


def reference(path: str, drive: str) -> Address | None:
    """What an itemReference's path points at; without a drive of its own it is in `drive`."""
    found = _REFERENCE.fullmatch(path)
    if found is None:
        return None
    return Address("", unquote(found["drive"] or drive), found["id"], _segments(found["path"]))


def _segments(path: str | None) -> tuple[str, ...]:
    return tuple(unquote(segment) for segment in (path or "").split("/") if segment)
