"""The page for people at `/`: static files, held in memory, and the Content-Security-Policy for them.

The page uses only the public routes, and nothing from another origin. There is no build step: the files are sent as
they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from gateway.core.errors import NOT_FOUND, GatewayError

PAGE = "index.html"
FOLLOW = "follow.js"
SIMULATED = b'<body data-upstream="simulated">'
TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
PARTS = (
    "alljobs.js",
    "board.js",
    "callbacks.js",
    "card.js",
    "curve.js",
    "demo.js",
    "details.js",
    "dom.js",
    "icon.svg",
    "ids.js",
    "job.js",
    "lines.js",
    "main.js",
    "notify.js",
    "operator.js",
    "stream.js",
    "style.css",
    "summary.js",
    "token.js",
    "tools.js",
    "verdict.js",
    "words.js",
)
_HEADERS = {
    # Trusted Types: no script of the page can turn a string into markup, whatever a job's error contains.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


_SHARED_HEADERS = {"Cross-Origin-Resource-Policy": "cross-origin"}


@cache
def _contents() -> Mapping[str, bytes]:
    folder = files(__name__)
    return {name: folder.joinpath(name).read_bytes() for name in (PAGE, FOLLOW, *PARTS)}


class Page:
    def __init__(self, *, is_simulated: bool) -> None:
        """With `is_simulated` the page offers demo copies, which Graph itself would refuse."""
        self._contents = dict(_contents())
        if is_simulated:
            self._contents[PAGE] = self._contents[PAGE].replace(b"<body>", SIMULATED)

    async def page(self, _request: Request) -> Response:
        return self._answer(PAGE)

    async def part(self, request: Request) -> Response:
        """The stylesheet, a script or the icon. Raises GatewayError (404) for any other name."""
        name = request.path_params["part"]
        if name not in PARTS:
            raise GatewayError(NOT_FOUND, "The page has no such part.")
        return self._answer(name)

    async def follow(self, _request: Request) -> Response:
        """The module that front ends of other origins import as well."""
        return self._answer(FOLLOW, _SHARED_HEADERS)

    def _answer(self, name: str, headers: Mapping[str, str] = _HEADERS) -> Response:
        return Response(self._contents[name], headers=headers, media_type=TYPES[name.rpartition(".")[2]])
