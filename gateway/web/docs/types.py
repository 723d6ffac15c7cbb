"""JSON schemas as short HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.web.docs.markup import Html, commas, element, join, listed, prose, table

_LIMITS = {"minimum": "from", "maximum": "to", "minLength": "length from", "maxLength": "length to"}


def kind(schema: Mapping[str, Any]) -> Html:
    """The type of a value; a named schema becomes a link to its section."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return element("a", name, href="#errors" if name == "ErrorCode" else f"#schema-{name}")
    if "anyOf" in schema:
        return commas((kind(one) for one in schema["anyOf"]), " or ")
    if "enum" in schema:
        return commas((element("code", str(value)) for value in schema["enum"]), " | ")
    if schema.get("type") == "array":
        return join("list of ", kind(schema["items"]))
    if "properties" in schema:
        inside = (join(element("code", name), " ", kind(one)) for name, one in schema["properties"].items())
        return join("object", listed(*inside))
    plain = schema.get("type", "anything")
    form = f" ({schema['format']})" if "format" in schema else ""
    limits = (f"{word} {schema[name]}" for name, word in _LIMITS.items() if name in schema)
    return join(", ".join([plain + form, *limits]))


def properties(schema: Mapping[str, Any]) -> Html:
    """The table of an object's properties, or what else the schema is."""
    if "$ref" in schema:
        return element("p", "All of ", kind(schema), ", and:")
    if "properties" not in schema:
        return element("p", kind(schema))
    required = element("span", " required", class_="must")
    rows = [
        (
            join(element("code", name), required if name in schema.get("required", ()) else ""),
            kind(one),
            prose(one.get("description", "")),
        )
        for name, one in schema["properties"].items()
    ]
    return table(("name", "type", "meaning"), rows)
