"""The guide, and the OpenAPI and AsyncAPI documents, as one HTML page.

The reference is rendered from the documents alone, so it cannot contradict them. The page has one style and one script,
which its Content-Security-Policy names by their hashes; the browser's search and links are the navigation. The usual
viewers are 1 to 3 MB of script and require `unsafe-inline` styles.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import msgspec

from gateway.web.docs.guide import guide
from gateway.web.docs.markup import (
    Html,
    Section,
    article,
    code,
    commas,
    element,
    join,
    listed,
    paragraphs,
    prose,
    section,
    table,
)
from gateway.web.docs.openapi.components import ALWAYS, FAULTS, FROM_BROWSERS, HEADERS
from gateway.web.docs.resolved import Operation, curl, examples, follow, operations
from gateway.web.docs.types import kind, properties

_STYLE, _SCRIPT = (files("gateway.web.docs").joinpath(name).read_text() for name in ("page.css", "page.js"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The Content-Security-Policy that the page is sent with."""

_KEYS = {"callerToken": "the caller's token for Graph", "jobKey": "the jobKey", "operatorKey": "the operator key"}
_JSON = "application/json"
_OR_UPSTREAM = "or upstream's own"


def page(openapi: Mapping[str, Any], asyncapi: Mapping[str, Any]) -> str:
    """The whole page, from the two documents."""
    sections = [*guide(_base(openapi)), *_routes(openapi), _events(asyncapi), _schemas(openapi), _headers(), _errors()]
    info = openapi["info"]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{info['title']}: quick start and reference"),
        element("link", rel="icon", href="data:,"),
        element("style", Html(_STYLE)),
        element("script", Html(_SCRIPT), type="module"),
    )
    links = (element("a", f"/{name}", href=name) for name in ("openapi.json", "asyncapi.json"))
    skip = element("a", "Skip the contents", href="#main", class_="skip")
    ways = (element("a", name, href=href) for name, href in (("Jobs", "./"), ("Operator", "./#operator")))
    here = element("a", "Docs", href="#main", aria_current="page")
    bar = element("nav", *ways, here, aria_label="Pages", class_="ways")
    top = element("header", bar, element("h1", info["title"]), element("p", info["summary"], class_="lead"))
    contents = element("nav", *(entry for entry, _ in sections), aria_label="Contents", class_="contents")
    main = element(
        "main",
        paragraphs(info["description"]),
        element("p", "The same as JSON: ", commas(links, " and "), "."),
        element(
            "p", "The examples are for a POSIX shell. The URL of this gateway is ", element("code", _base(openapi)), "."
        ),
        *(shown for _, shown in sections),
        id="main",
    )
    return "<!doctype html>\n" + element("html", head, element("body", skip, top, contents, main), lang="en")


def _base(openapi: Mapping[str, Any]) -> str:
    base: str = openapi["servers"][0]["url"]
    return base


def _routes(openapi: Mapping[str, Any]) -> Iterator[Section]:
    found = operations(openapi)
    for tag in openapi["tags"]:
        forms: dict[str, list[Operation]] = {}  # the paths of one operation share its summary
        for operation in found:
            if tag["name"] in operation.content["tags"] and operation.method != "HEAD":
                forms.setdefault(operation.content["summary"], []).append(operation)
        entries = [(group[0].name, join(summary)) for summary, group in forms.items()]
        articles = [_article(openapi, group) for group in forms.values()]
        yield section(tag["name"].lower(), tag["name"], tag["description"], entries, *articles)


def _article(openapi: Mapping[str, Any], forms: list[Operation]) -> Html:
    """An operation; its first path is shown, the others are folded away."""
    first = forms[0]
    content = first.content
    parts = [
        element("p", _address(first.method, first.path), class_="address"),
        paragraphs(content.get("description", "")),
        element("p", _authentication(first)),
        code(curl(_base(openapi), first)),
    ]
    if len(forms) > 1:
        others = (element("span", _address(form.method, form.path), id=form.name) for form in forms[1:])
        more = element("summary", "1 more path" if len(forms) == 2 else f"{len(forms) - 1} more paths")
        parts.append(element("details", more, listed(*others, class_="plain")))
    parameters = {(parameter["in"], parameter["name"]): parameter for form in forms for parameter in form.parameters}
    if parameters:
        rows = [
            (*_named(parameter), kind(parameter["schema"]), prose(parameter["description"]))
            for parameter in parameters.values()
        ]
        parts += [element("h4", "Parameters"), table(("name", "in", "type", "meaning"), rows)]
    if first.body is not None:
        media = first.body["content"][_JSON]
        parts += [element("h4", "Request body: ", kind(media["schema"])), *_examples(media)]
    parts.append(element("h4", "Responses"))
    parts += [_response(status, response) for status, response in sorted(first.responses.items())]
    return article(first.name, content["summary"], *parts)


def _address(method: str, path: str) -> Html:
    return join(element("b", method, class_="method"), " ", element("code", path))


def _authentication(operation: Operation) -> Html:
    if not operation.keys:
        by_id = any(parameter["name"] == "job" for parameter in operation.parameters)
        return join("Authentication: none; the job's id is enough." if by_id else "Authentication: none.")
    accepted = " or ".join(_KEYS[key] for key in operation.keys)
    return prose(f"Authentication: `Authorization: Bearer …` with {accepted}.")


def _named(parameter: Mapping[str, Any]) -> tuple[Html, str]:
    required = element("span", " required", class_="must") if parameter["required"] else ""
    return join(element("code", parameter["name"]), required), parameter["in"]


def _response(status: str, response: Mapping[str, Any]) -> Html:
    bodies = response.get("content", {})
    codes = [name for name in examples(bodies.get(_JSON, {})) if f"{status} {name}" in FAULTS]
    meaning = commas(element("a", element("code", name), href=f"#error-{status}-{name}") for name in codes)
    if not codes:
        meaning = prose(response["description"])
    passed_on = bool(codes) and response["description"].endswith(_OR_UPSTREAM)
    if passed_on:
        meaning = join(meaning, ", ", _OR_UPSTREAM)
    # The headers of upstream's response are listed at `default`.
    named = [] if passed_on else [name for name in response["headers"] if name not in ALWAYS + FROM_BROWSERS]
    to_headers = commas(element("a", element("code", name), href=f"#header-{name}") for name in named)
    line = join(element("b", status, class_="status"), " ", meaning)
    if codes or not bodies:
        return element("p", line, join("; headers: ", to_headers) if named else "", class_="answer")
    shown = [element("p", "Headers: ", to_headers)] if named else []
    for name, media in bodies.items():
        of = (" ", kind(media["schema"])) if "$ref" in media.get("schema", {}) else ()
        shown += [element("p", element("code", name), *of), *_examples(media)]
    return element("details", element("summary", line), *shown, class_="answer")


def _examples(media: Mapping[str, Any]) -> list[Html]:
    return [code(value if isinstance(value, str) else _json(value)) for value in examples(media).values()]


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _events(asyncapi: Mapping[str, Any]) -> Section:
    entries, articles = [], []
    for name, operation in asyncapi["operations"].items():
        channel = follow(asyncapi, operation["channel"])
        anchor = f"events-{name}"
        entries.append((anchor, join(operation["title"])))
        parts: list[Html] = []
        is_stream = channel["address"] is not None
        if is_stream:
            address = _address(operation["bindings"]["http"]["method"], channel["address"])
            parts.append(element("p", address, class_="address"))
        parts += [element("p", prose(part["description"])) for part in (channel, operation) if "description" in part]
        for message in (follow(asyncapi, reference) for reference in channel["messages"].values()):
            parts += _message(message, is_stream=is_stream)
        articles.append(article(anchor, operation["title"], *parts))
    description = "The messages that the gateway pushes: events on streams, and callbacks (webhooks)."
    return section("events", "Events and callbacks", description, entries, *articles)


def _message(message: Mapping[str, Any], *, is_stream: bool) -> Iterator[Html]:
    yield element("h4", element("code", message["title"]), ": ", kind(message["payload"]))
    yield element("p", prose(message["description"]))
    example = message["examples"][0]
    lines = [f"{name}: {value}" for name, value in example["headers"].items()]
    payload = msgspec.json.encode(example["payload"]).decode()
    yield code("\n".join([*lines, f"data: {payload}"] if is_stream else [*lines, "", payload]))


def _schemas(openapi: Mapping[str, Any]) -> Section:
    entries, articles = [], []
    for name, schema in sorted(openapi["components"]["schemas"].items()):
        if name == "ErrorCode":  # the table of errors shows it
            continue
        anchor = f"schema-{name}"
        entries.append((anchor, element("code", name)))
        parts = [element("p", prose(schema.get("description", "")))]
        parts += [properties(part) for part in schema.get("allOf", [schema])]
        parts += [code(_json(example)) for example in schema.get("examples", ())]
        articles.append(article(anchor, element("code", name), *parts))
    return section("schemas", "Schemas", "The JSON of bodies and events.", entries, *articles)


def _headers() -> Section:
    where = dict.fromkeys(ALWAYS, "every response") | dict.fromkeys(FROM_BROWSERS, "responses to browsers")
    rows = [
        (
            element("code", name, id=f"header-{name}"),
            where.get(name, "where it is listed"),
            prose(header["description"]),
            element("code", str(header["example"])),
        )
        for name, header in HEADERS.items()
    ]
    description = "The headers of responses."
    return section("headers", "Headers", description, [], table(("name", "on", "meaning", "example"), rows))


def _errors() -> Section:
    rows = []
    for fault, meaning in FAULTS.items():
        status, name = fault.split()
        anchor = f"error-{status}-{name}"
        rows.append((status, element("a", element("code", name), id=anchor, href=f"#{anchor}"), prose(meaning)))
    description = (
        "Every error of the gateway has one of these codes, and a message that says what was wrong and what to do."
    )
    return section("errors", "Errors", description, [], table(("status", "code", "meaning"), rows))
