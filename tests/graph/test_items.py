"""Which raw paths are forwarded."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import GatewayError
from gateway.graph.items import ItemRequest, parse

DRIVES = [
    "me/drive",
    "me/drives/b!x",
    "drives/b!x,y",
    "users/a%40b.com/drive",
    "groups/1/drives/2",
    "sites/contoso.sharepoint.com,guid,guid/drive",
    "sites/s/drives/d",
]


@pytest.mark.parametrize("version", ["v1.0", "beta"])
@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize(
    "item", ["root", "items/root", "items/01A!9", "root:/a/b c%20d:", "items/01A:/x:", "root:/a%3Ab:", "root:/%252e:"]
)
@pytest.mark.parametrize("action", ["copy", "microsoft.graph.copy"])
def test_every_form_of_a_copy(version: str, drive: str, item: str, action: str) -> None:
    """Each drive, by id, root or path, with either spelling of the action."""
    assert parse("POST", f"/{version}/{drive}/{item}/{action}") == ItemRequest("copy", version, drive)


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("item", ["root", "items/01A!9", "root:/a/b:", "root:/a/b", "items/01A:/x"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_form_of_a_read(drive: str, item: str, method: str) -> None:
    """The last colon of a path is optional on GET."""
    assert parse(method, f"/v1.0/{drive}/{item}") == ItemRequest("read", "v1.0", drive)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1.0/me"),
        ("GET", "/v1.0/me/drive"),
        ("GET", "/v1.0/me/drive/items"),
        ("GET", "/v1.0/me/drive/items/1/children"),
        ("GET", "/v1.0/me/drive/items/1/"),
        ("GET", "/v1.0/me/drive//items/1"),
        ("GET", "/v1.0/me/drive/items/1/copy"),
        ("GET", "/v2.0/me/drive/items/1"),
        ("GET", "/v1x0/me/drive/items/1"),
        ("GET", "/V1.0/me/drive/items/1"),
        ("GET", "/v1.0/users/drive/items/1"),
        ("GET", "/v1.0/shares/1/items/1"),
        ("POST", "/v1.0/me/drive/items/1"),
        ("POST", "/v1.0/me/drive/items//copy"),
        ("POST", "/v1.0/me/drive/items/1/move"),
        ("POST", "/v1.0/me/drive/items/1/copy/"),
        ("POST", "/v1.0/me/drive/items/1/copy/copy"),
        ("POST", "/v1.0/me/drive/root:/a/copy"),
        ("POST", "/v1.0/me/drive/root::/copy"),
        ("DELETE", "/v1.0/me/drive/items/1"),
        ("PATCH", "/v1.0/me/drive/items/1"),
        ("POST", "/v1.0/me/drive/items/1/microsoftXgraph.copy"),
    ],
)
def test_anything_else_is_404_and_says_what_is_forwarded(method: str, path: str) -> None:
    """The gateway is no open door to Graph."""
    with pytest.raises(GatewayError, match="The gateway forwards") as caught:
        parse(method, path)
    assert caught.value.kind.status == 404


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
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
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
    ]
)


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT"]),
    st.lists(SEGMENTS, max_size=9).map(lambda all_: "/" + "/".join(all_)),
)
def test_any_path_is_forwarded_404_or_400(method: str, path: str) -> None:
    """400 exactly when some segment climbs or hides; what is forwarded names the version and the drive it came with."""
    climbs = any(
        segment.strip(":") in (".", "..") or set(segment) & set("/\\\0") for segment in map(unquote, path.split("/"))
    )
    try:
        found = parse(method, path)
    except GatewayError as error:
        assert error.kind.status == (400 if climbs else 404)  # noqa: PT017 - both are right, each for its own paths
    else:
        assert not climbs
        assert path.startswith(f"/{found.version}/{found.prefix}/")
        assert (found.action, method) in (("copy", "POST"), ("read", "GET"), ("read", "HEAD"))
        assert found.action == "read" or path.endswith("copy")
