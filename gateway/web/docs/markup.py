"""HTML built from elements: plain strings are escaped, `Html` is not."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"`([^`]+)`")
_VOID = {"meta", "link"}


class Html(str):
    """A string that is HTML already and is not escaped again."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | None) -> Html:
    """An element. A trailing underscore of an attribute is dropped (`class_`); an attribute that is None is omitted."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: str) -> Html:
    return Html("".join(child if isinstance(child, Html) else html.escape(child, quote=False) for child in children))


def commas(children: Iterable[str], between: str = ", ") -> Html:
    """The children, with `between` as separator."""
    return join(*(join(between if place else "", child) for place, child in enumerate(children)))


def prose(text: str) -> Html:
    """A description as HTML: text between backticks becomes code."""
    parts = _CODE.split(text)
    return join(*(element("code", part) if place % 2 else part for place, part in enumerate(parts)))


def paragraphs(text: str) -> Html:
    return join(*(element("p", prose(part)) for part in text.split("\n\n")))


def listed(*items: str, class_: str | None = None) -> Html:
    return element("ul", *(element("li", item) for item in items), class_=class_)


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Html:
    head = element("thead", element("tr", *(element("th", head, scope="col") for head in heads)))
    lines = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element("table", head, element("tbody", *lines))


def code(text: str) -> Html:
    return element("pre", element("code", text))


Section = tuple[Html, Html]
"""A section's part of the contents, and the section."""


def heading(level: int, title: str, anchor: str) -> Html:
    """A heading that links to itself, so that its address can be copied."""
    return element(f"h{level}", element("a", title, href=f"#{anchor}"), id=anchor)


def article(anchor: str, title: str, *body: str) -> Html:
    return element("article", heading(3, title, anchor), *body, aria_labelledby=anchor)


def section(name: str, title: str, description: str, entries: list[tuple[str, Html]], *body: str) -> Section:
    """A section of the page; `entries` are the anchors and titles of its articles."""
    inside = listed(*(element("a", text, href=f"#{anchor}") for anchor, text in entries)) if entries else ""
    contents = join(element("p", element("a", title, href=f"#{name}")), inside)
    start = (heading(2, title, name), element("p", prose(description)))
    return contents, element("section", *start, *body, aria_labelledby=name)
