"""Which raw paths are forwarded."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import GatewayError
from gateway.graph.operations import MOVE, READ, GraphRequest, Operation, parse

DRIVES = [
    "me/drive",
    "me/drives/b!x",
    "drives/b!x,y",
    "users/a%40b.com/drive",
    "groups/1/drives/2",
    "sites/contoso.sharepoint.com,guid,guid/drive",
    "sites/s/drives/d",
]


ACTIONS = ["copy", "archive", "unarchive", "assignSensitivityLabel"]
ITEMS = {  # how an item is named, and its id where that is all that names it
    "root": None,
    "items/root": None,
    "items/01A!9": "01A!9",
    "items/odd,50%25!id": "odd,50%!id",
    "items/%C3%A4": None,
    "root:/a/b c%20d:": None,
    "items/01A:/x:": None,
    "root:/a%3Ab:": None,
    "root:/%252e:": None,
}


@pytest.mark.parametrize("version", ["v1.0", "beta"])
@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("end", ["", "/"])
def test_every_form_of_an_action(version: str, drive: str, item: str, end: str) -> None:
    """Each drive, by id, root or path, with either spelling of each action; a slash at the end is dropped."""
    for action in ACTIONS:
        for spelling in (action, f"microsoft.graph.{action}"):
            path = f"/{version}/{drive}/{item}/{spelling}"
            found = parse("POST", path + end)
            assert (found.operation.action, found.version, found.prefix) == (action, version, drive)
            assert (found.path, found.item_id) == (path, ITEMS[item])


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("item", [*ITEMS, "root:/a/b", "items/01A:/x", "root:/a.docx"])
@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize(("method", "operation"), [("GET", READ), ("HEAD", READ), ("PATCH", MOVE)])
def test_every_form_of_an_item(drive: str, item: str, end: str, method: str, operation: Operation) -> None:
    """Where nothing follows the item, the last colon of a path is optional; a slash at the end is dropped."""
    path = f"/v1.0/{drive}/{item}"
    assert parse(method, path + end) == GraphRequest(operation, "v1.0", drive, path, ITEMS.get(item))


def test_an_id_that_is_too_long_for_a_state_is_none() -> None:
    """It is forwarded all the same."""
    assert parse("GET", "/v1.0/me/drive/items/" + "a" * 1024).item_id == "a" * 1024
    assert parse("GET", "/v1.0/me/drive/items/" + "a" * 1025).item_id is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1.0/me"),
        ("GET", "/v1.0/me/drive"),
        ("GET", "/v1.0/me/drive/items"),
        ("GET", "/v1.0/me/drive/items/"),
        ("GET", "/v1.0/me/drive/items/1/children"),
        ("GET", "/v1.0/me/drive/items/1//"),
        ("GET", "/v1.0/me/drive//items/1"),
        ("GET", "/v1.0/me/drive/items/1/copy"),
        ("GET", "/v1.0/me/drive/root:/a:/permissions"),
        ("GET", "/v1.0/me/drive/root:/a:/content"),
        ("GET", "/v1.0/me/drive/items/1:/a:/children"),
        ("GET", "/v1.0/me/drive/items/1:/a:/children/"),
        ("GET", "/v1.0/me/drive/root:/a:b"),
        ("GET", "/v1.0/me/drive/root:/a:b/c"),
        ("GET", "/v1.0/me/drive/root:/a::"),
        ("GET", "/v1.0/me/drive/root:/a//b"),
        ("GET", "/v1.0/me/drive/root:/"),
        ("GET", "/v1.0/me/drive/root:"),
        ("GET", "/v1.0/me/drive/root::"),
        ("GET", "/v1.0/me/drive/root:a"),
        ("GET", "/v1.0/me/drive/items/1:a"),
        ("GET", "/v2.0/me/drive/items/1"),
        ("GET", "/v1x0/me/drive/items/1"),
        ("GET", "/V1.0/me/drive/items/1"),
        ("GET", "/v1.0/users/drive/items/1"),
        ("GET", "/v1.0/shares/1/items/1"),
        ("POST", "/v1.0/me/drive/items/1"),
        ("POST", "/v1.0/me/drive/items//copy"),
        ("POST", "/v1.0/me/drive/items/1/move"),
        ("POST", "/v1.0/me/drive/items/1/copy//"),
        ("POST", "/v1.0/me/drive/items/1/copy/copy"),
        ("POST", "/v1.0/me/drive/items/1/Copy"),
        ("POST", "/v1.0/me/drive/items/1/createLink"),
        ("POST", "/v1.0/me/drive/items/1/permanentDelete"),
        ("POST", "/v1.0/me/drive/root:/a/copy"),
        ("POST", "/v1.0/me/drive/root:/a/archive"),
        ("POST", "/v1.0/me/drive/root::/copy"),
        ("POST", "/v1.0/me/drive/root:/a:/b:/copy"),
        ("DELETE", "/v1.0/me/drive/items/1"),
        ("PUT", "/v1.0/me/drive/items/1"),
        ("PATCH", "/v1.0/me/drive"),
        ("PATCH", "/v1.0/me/drive/items/1/copy"),
        ("PATCH", "/v1.0/me/drive/items/1/permissions/2"),
        ("PATCH", "/v1.0/me/drive/root:/a:/permissions"),
        ("POST", "/v1.0/me/drive/items/1/microsoftXgraph.copy"),
        ("POST", "/v1.0/me/drive/items/1/microsoft.graph.microsoft.graph.copy"),
    ],
)
def test_anything_else_is_404_and_says_what_is_forwarded(method: str, path: str) -> None:
    """The gateway is no open door to Graph."""
    with pytest.raises(GatewayError, match="The gateway forwards") as caught:
        parse(method, path)
    assert caught.value.kind.status == 404


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/v1.0/me/drive/items/1/Copy", "POST {item}/copy"),
        ("PATCH", "/v1.0/me/drive/items/1/copy", "POST {item}/copy"),
        ("PUT", "/beta/teams/1/archive/", "POST teams/{id}/archive"),
        ("POST", "/v1.0/me/onenote/notebooks/1/copynotebook", "POST {owner}/onenote/notebooks/{id}/copyNotebook"),
        ("POST", "/v1.0/external/connections/1/schema", "PATCH external/connections/{id}/schema"),
        ("PUT", "/v1.0/me/drive/items/1", ""),
        ("POST", "/v1.0/teams/1/delete", ""),
    ],
)
def test_what_may_be_meant(method: str, path: str, meant: str) -> None:
    """Another method, or another case of letters."""
    with pytest.raises(GatewayError) as caught:
        parse(method, path)
    assert caught.value.message.partition(" is not forwarded. ")[2].startswith(
        f"Did you mean {meant}? The gateway" if meant else "The gateway"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1.0/me/drive/items/../copy",
        "/v1.0/me/drive/items/%2e%2E/copy",
        "/v1.0/me/drive/items/.",
        "/v1.0/me/drive/items/a%2Fb/copy",
        "/v1.0/me/drive/items/a%5cb/copy",
        "/v1.0/me/drive/items/a\\b/copy",
        "/v1.0/me/drive/items/a%00/copy",
        "/v1.0/me/drive/root:/a/..:/copy",
        "/v1.0/me/drive/root:/a/%2e%2e/b:/copy",
        "/v1.0/users/%2e%2e/nothing",
        "/v1.0/..",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "PATCH", "DELETE"])
def test_a_segment_that_climbs_or_hides_is_400_before_any_404(method: str, path: str) -> None:
    """Judged decoded once, whatever else is wrong with the path."""
    with pytest.raises(GatewayError) as caught:
        parse(method, path)
    assert caught.value.kind.status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/v1.0/me/drive/root:/a b:/copy",
        "/v1.0/me/drive/items/a%2e%2eb/copy",
        "/v1.0/me/drive/items/.../copy",
        "/v1.0/me/drive/items/a:b",
        "/v1.0/me/drive/items/%3A/copy",
        "/v1.0/me/drive/root:/%252e%252e:/copy",
        "/v1.0/me/drive/items/%c0%ae%c0%ae/copy",
        "/v1.0/me/drive/items/a%252Fb/copy",
    ],
)
def test_what_only_looks_like_climbing_is_not_refused_for_it(path: str) -> None:
    """Dots within a name, and what would climb only if decoded twice, are names: forwarded, or 404 for their form."""
    try:
        parse("POST", path)
    except GatewayError as error:
        assert error.kind.status == 404  # noqa: PT017 - either outcome is right, 400 is not


SEGMENTS = st.sampled_from(
    [
        *("v1.0", "beta", "me", "drive", "drives", "users", "sites", "items", "root", "root:", "copy", "b!x", "a%20b"),
        *("01A", "01A:", "x:", ":", "", ".", "..", "%2e%2e", "a%2Fb", "a%5Cb", "%00", "..:", "microsoft.graph.copy"),
        *("a:b", "archive", "microsoft.graph.assignSensitivityLabel"),
    ]
)
PATHS = st.lists(SEGMENTS, max_size=6).map(lambda tail: ["", "v1.0", "me", "drive", *tail]) | st.lists(
    SEGMENTS, max_size=9
).map(lambda all_: ["", *all_])


def is_item(segments: list[str], *, whole: bool) -> bool:
    """Whether the segments behind a drive name an item; a path may miss its last colon if that is the `whole` rest."""
    if segments[:1] == ["items"]:
        segments = segments[1:]
        first_is_fine = segments[:1] != [] and segments[0].removesuffix(":") != ""
    else:
        first_is_fine = segments[:1] in (["root"], ["root:"])
    if not first_is_fine or ":" in segments[0][:-1]:
        return False
    *above, last = segments[1:] or [""]
    if not segments[0].endswith(":"):
        return segments[1:] == []
    if not last.endswith(":") and not whole:
        return False
    return all(name != "" and ":" not in name for name in (*above, last.removesuffix(":")))


@given(st.sampled_from(["GET", "HEAD", "POST", "PATCH", "PUT"]), PATHS)
def test_any_path_is_forwarded_404_or_400(method: str, segments: list[str]) -> None:
    """400 exactly when some segment climbs or hides; what is forwarded names its drive, and an item below it."""
    path = "/".join(segments)
    climbs = any(segment.strip(":") in (".", "..") or set(segment) & set("/\\\0") for segment in map(unquote, segments))
    try:
        found = parse(method, path)
    except GatewayError as error:
        assert error.kind.status == (400 if climbs else 404)  # noqa: PT017 - both are right, each for its own paths
        rest = path.removeprefix("/v1.0/me/drive/").removesuffix("/").split("/")
        plain = rest != path.removesuffix("/").split("/") and not climbs
        assert not (plain and method in ("GET", "HEAD", "PATCH") and is_item(rest, whole=True))
        return
    assert not climbs
    assert found.path == path.removesuffix("/")
    assert path.startswith(f"/{found.version}/{found.prefix}/")
    rest = found.path.removeprefix(f"/{found.version}/{found.prefix}/").split("/")
    if method == "POST":
        assert rest.pop().removeprefix("microsoft.graph.") == found.operation.action
    else:
        assert (found.operation.action, method) in (("read", "GET"), ("read", "HEAD"), ("move", "PATCH"))
    assert is_item(rest, whole=method != "POST")
