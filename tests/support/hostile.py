"""Requests of a hostile hand, byte for byte, each with the answers it must get.

`answers` are statuses, each with the error's code if there is one. `end` is what the connection is afterwards: `open`
for the next request, or `closed` once the answers are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from gateway.server.heads import FIELDS_LIMIT, FIRST_LINE_LIMIT, HEAD_LIMIT

End = Literal["open", "closed"]
BAD, NO_METHOD, NO_ROUTE = "400 invalidRequest", "405 methodNotAllowed", "404 notFound"
LONG_LINE, LARGE_HEAD, OLD_VERSION = "414 uriTooLong", "431 requestHeadTooLarge", "505 httpVersionNotSupported"
LARGE_BODY, NO_KEY = "413 requestTooLarge", "401 unauthenticated"
COPY = b"/v1.0/me/drive/items/1/copy"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
ENDED = b"{ended}"
"""It stands for the id of a job that has ended."""


class Case(NamedTuple):
    pieces: tuple[bytes, ...]
    answers: tuple[str, ...]
    end: End


def request(*lines: bytes, first: bytes = b"GET /healthz HTTP/1.1", host: bytes | None = b"Host: x") -> bytes:
    """A request with these headers."""
    return b"\r\n".join([first, *([] if host is None else [host]), *lines]) + b"\r\n\r\n"


def post(*lines: bytes, body: bytes = b"", to: bytes = COPY) -> bytes:
    return request(*lines, first=b"POST " + to + b" HTTP/1.1") + body


def chunked(body: bytes, to: bytes = COPY) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body, to=to)


def of_length(length: int, body: bytes, *lines: bytes, to: bytes = COPY) -> bytes:
    return post(b"Content-Length: %d" % length, *lines, body=body, to=to)


def of_size(size: int) -> bytes:
    """A head of that many bytes."""
    return request(b"A: " + b"a" * (size - len(request(b"A: "))))


def of_line(size: int) -> bytes:
    """A request with a first line of that many bytes."""
    line = b"GET /healthz?%b HTTP/1.1"
    return request(first=line % (b"a" * (size - len(line) + 2)))


def cut(data: bytes, size: int = 1) -> tuple[bytes, ...]:
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def first_lines() -> Iterator[tuple[str, bytes, str]]:
    """What is no request line, or one that the gateway does not take. The connection is closed after each."""
    for name, line in {
        "no version": b"GET /healthz",
        "no target": b"GET HTTP/1.1",
        "a method alone": b"GET",
        "two spaces": b"GET  /healthz HTTP/1.1",
        "two spaces before the version": b"GET /healthz  HTTP/1.1",
        "a space at the end": b"GET /healthz HTTP/1.1 ",
        "a space at the start": b" GET /healthz HTTP/1.1",
        "tabs": b"GET\t/healthz\tHTTP/1.1",
        "a target with a space": b"GET /health z HTTP/1.1",
        "a target with a NUL": b"GET /health\0z HTTP/1.1",
        "a target with a control character": b"GET /health\x01z HTTP/1.1",
        "a target with DEL": b"GET /health\x7fz HTTP/1.1",
        "a target in UTF-8": "GET /healthé HTTP/1.1".encode(),
        "a target in Latin-1": b"GET /health\xe9 HTTP/1.1",
        "a carriage return in it": b"GET /health\rz HTTP/1.1",
        "a lower-case version": b"GET /healthz http/1.1",
        "no minor version": b"GET /healthz HTTP/1",
        "no digits": b"GET /healthz HTTP/a.b",
        "two digits": b"GET /healthz HTTP/1.10",
        "a sign": b"GET /healthz HTTP/+1.1",
        "RTSP": b"GET /healthz RTSP/1.0",
        "ICE": b"SOURCE /healthz ICE/1.0",
        "HTTPS": b"GET /healthz HTTPS/1.1",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "SSH": b"SSH-2.0-OpenSSH_9.6",
        "SMTP": b"EHLO x",
        "a status line": b"HTTP/1.1 200 OK",
        "PROXY": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2",
        "PROXY in binary": b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c",
        "JSON": b'{"a":1}',
        "a method with brackets": b"G(E)T / HTTP/1.1",
        "a method with a NUL": b"G\0T / HTTP/1.1",
        "a long method": b"G" * 40 + b" / HTTP/1.1",
        "an authority": b"GET x:443 HTTP/1.1",
        "a star": b"GET * HTTP/1.1",
        "a target without a slash": b"GET healthz HTTP/1.1",
        "an ftp target": b"GET ftp://x/healthz HTTP/1.1",
        "a file target": b"GET file:///etc/passwd HTTP/1.1",
        "a javascript target": b"GET javascript:alert(1) HTTP/1.1",
        "an absolute target with user info": b"GET http://u:p@x/healthz HTTP/1.1",
        "an absolute target without a host": b"GET http:///healthz HTTP/1.1",
        "an absolute target with a strange host": b'GET http://x"y/healthz HTTP/1.1',
    }.items():
        yield name, request(first=line), BAD
    for version in (b"0.0", b"1.2", b"1.9", b"2.0", b"2.1", b"3.0", b"9.9"):
        line = b"GET /healthz HTTP/" + version
        yield f"HTTP/{version.decode()}", request(first=line), OLD_VERSION
    yield "HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", OLD_VERSION
    for method in (b"CONNECT", b"FOO", b"get", b"Get", b"QUERY", b"PROPFIND", b"M-SEARCH", b"PURGE", b"G!#$"):
        yield f"the method {method.decode()}", request(first=method + b" /healthz HTTP/1.1"), NO_METHOD
    yield "CONNECT to an authority", request(first=b"CONNECT x:443 HTTP/1.1"), NO_METHOD


def headers() -> Iterator[tuple[str, bytes, str]]:
    """Headers that make a request malformed. The connection is closed after each."""
    for name, lines in {
        "folded": (b"A: b", b" c"),
        "folded with a tab": (b"A: b", b"\tc"),
        "a folded Host": (b"Host:", b" y"),
        "a NUL in a value": (b"A: b\0c",),
        "a control character in a value": (b"A: b\x01c",),
        "DEL in a value": (b"A: b\x7fc",),
        "a carriage return in a value": (b"A: b\rc",),
        "a carriage return at the end": (b"A: b\r",),
        "a space before the colon": (b"A : b",),
        "a tab before the colon": (b"A\t: b",),
        "a space before Content-Length's colon": (b"Content-Length : 3",),
        "a space before Transfer-Encoding's colon": (b"Transfer-Encoding : chunked",),
        "no name": (b": b",),
        "no colon": (b"abc",),
        "a space in a name": (b"a b: c",),
        "a NUL in a name": (b"a\0b: c",),
        "brackets in a name": (b"a(b): c",),
        "Latin-1 in a name": (b"\xe9: c",),
        "a quote in a name": (b'a"b: c',),
        "two Hosts": (b"Host: x",),
        "two different Hosts": (b"Host: y",),
        "two Hosts in two cases": (b"hOST: x",),
        "a name like Content-Length": (b"Content-Length\x0b: 3",),
    }.items():
        yield name, request(*lines), BAD
    yield "the first line folded", request(host=b" Host: x"), BAD
    for name, host in {
        "no Host": None,
        "a Host with a space": b"Host: x y",
        "a Host with a path": b"Host: x/y",
        "a Host with user info": b"Host: u@x",
        "a Host with a quote": b'Host: x"y',
        "a Host with a control character": b"Host: x\x01",
        "a Host in UTF-8": "Host: é".encode(),
        "a Host with a backslash": b"Host: x\\y",
        "a Host with a query": b"Host: x?y",
        "a list of Hosts": b"Host: x, y",
    }.items():
        yield name, request(host=host), BAD
    for name, data in {
        "bare line feeds": b"GET /healthz HTTP/1.1\nHost: x\n\n",
        "a bare line feed after the first line": b"GET /healthz HTTP/1.1\nHost: x\r\n\r\n",
        "a bare line feed after a header": b"GET /healthz HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
        "a bare line feed at the end": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\n",
        "bare carriage returns": b"GET /healthz HTTP/1.1\rHost: x\r\r",
        "a carriage return too many": b"GET /healthz HTTP/1.1\r\r\nHost: x\r\n\r\n",
    }.items():
        yield name, data, BAD


def framings() -> Iterator[tuple[str, bytes, str]]:
    """Bodies that one reader may see another end of than the next. The connection is closed after each."""
    hidden = request(first=b"GET /hidden HTTP/1.1")
    for name, lines in {
        "two equal lengths": (b"Content-Length: 3", b"Content-Length: 3"),
        "two lengths": (b"Content-Length: 3", b"Content-Length: 30"),
        "a list of lengths": (b"Content-Length: 3, 3",),
        "a length with a plus": (b"Content-Length: +3",),
        "a negative length": (b"Content-Length: -1",),
        "a hexadecimal length": (b"Content-Length: 0x3",),
        "a length with an underscore": (b"Content-Length: 1_0",),
        "a length with a space": (b"Content-Length: 1 0",),
        "a length with a fraction": (b"Content-Length: 3.0",),
        "a length in words": (b"Content-Length: three",),
        "a length in other digits": "Content-Length: ٣".encode().splitlines()[:1],
        "an empty length": (b"Content-Length:",),
        "a length of 64 bits and more": (b"Content-Length: 18446744073709551616",),
        "a length of 5,000 digits": (b"Content-Length: " + b"9" * 5000,),
        "a length and chunks": (b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        "chunks and a length": (b"Transfer-Encoding: chunked", b"Content-Length: 3"),
        "chunks and no length": (b"Transfer-Encoding: chunked", b"Content-Length: 0"),
        "gzip": (b"Transfer-Encoding: gzip",),
        "identity": (b"Transfer-Encoding: identity",),
        "gzip and chunks": (b"Transfer-Encoding: gzip, chunked",),
        "chunks and gzip": (b"Transfer-Encoding: chunked, gzip",),
        "chunks twice": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        "chunks twice in a list": (b"Transfer-Encoding: chunked, chunked",),
        "chunks and identity": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        "identity and chunks": (b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
        "a coding like chunks": (b"Transfer-Encoding: xchunked",),
        "chunks with a parameter": (b"Transfer-Encoding: chunked;q=1",),
        "chunks in quotes": (b'Transfer-Encoding: "chunked"',),
        "chunks with a control character": (b"Transfer-Encoding: \x0bchunked",),
        "no coding": (b"Transfer-Encoding:",),
        "chunks behind a line without a colon": (b"X", b"Transfer-Encoding: chunked"),
    }.items():
        yield name, post(*lines, body=b"0\r\n\r\n" + hidden), BAD
        yield f"{name}, without a body", request(*lines), BAD
    old = request(b"Transfer-Encoding: chunked", first=b"POST " + COPY + b" HTTP/1.0")
    yield "chunks of HTTP/1.0", old + b"0\r\n\r\n" + hidden, BAD
    for name, body in {
        "a negative chunk": b"-1\r\nx\r\n0\r\n\r\n",
        "a chunk with a plus": b"+1\r\nx\r\n0\r\n\r\n",
        "a chunk with 0x": b"0x1\r\nx\r\n0\r\n\r\n",
        "a chunk with a space": b" 1\r\nx\r\n0\r\n\r\n",
        "a chunk with a space behind": b"1 \r\nx\r\n0\r\n\r\n",
        "a chunk without a size": b"\r\nx\r\n0\r\n\r\n",
        "a chunk with an extension alone": b";a=b\r\nx\r\n0\r\n\r\n",
        "a chunk of 64 bits and more": b"fffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "a chunk longer than its size": b"1\r\nxyz\r\n0\r\n\r\n",
        "a chunk shorter than its size": b"5\r\nx\r\n0\r\n\r\nabc",
        "a chunk that is no number": b"g\r\nx\r\n0\r\n\r\n",
        "a bare line feed after a size": b"1\nx\r\n0\r\n\r\n",
        "a bare line feed after a chunk": b"1\r\nx\n0\r\n\r\n",
        "a bare line feed after an extension": b"1;a\nx\r\n0\r\n\r\n",
        "a bare carriage return after a size": b"1\rx\r\n0\r\n\r\n",
        "a bare line feed at the end": b"1\r\nx\r\n0\r\n\n",
        "a bare line feed in a trailer": b"1\r\nx\r\n0\r\nA: b\n\r\n",
        "a folded trailer": b"1\r\nx\r\n0\r\nA: b\r\n c\r\n\r\n",
        "a trailer without a name": b"1\r\nx\r\n0\r\n: b\r\n\r\n",
        "a NUL in a trailer": b"1\r\nx\r\n0\r\nA: \0\r\n\r\n",
        "a NUL in an extension": b"1;\0\r\nx\r\n0\r\n\r\n",
    }.items():
        yield name, chunked(body + hidden), BAD


def targets() -> Iterator[tuple[str, bytes, str]]:
    """Well-formed requests after which the connection is open."""
    for name, (line, answer) in {
        "a line feed": (b"GET /healthz%0A HTTP/1.1", NO_ROUTE),
        "a carriage return": (b"GET /healthz%0D HTTP/1.1", NO_ROUTE),
        "a NUL": (b"GET /healthz%00 HTTP/1.1", NO_ROUTE),
        "a line feed and more": (b"GET /healthz%0Ax HTTP/1.1", NO_ROUTE),
        "a line feed after a job": (b"GET /jobs/{ended}%0A HTTP/1.1", "404 jobNotFound"),
        "a line feed after a list": (b"GET /jobs%0A HTTP/1.1", NO_ROUTE),
        "a line feed after a stream": (b"GET /events%0A?job={ended} HTTP/1.1", NO_ROUTE),
        "a slash too many": (b"GET /healthz/ HTTP/1.1", NO_ROUTE),
        "a slash too many after a job": (b"GET /jobs/{ended}/ HTTP/1.1", NO_ROUTE),
        "two slashes": (b"GET //healthz HTTP/1.1", NO_ROUTE),
        "a host in the path": (b"GET //evil.example/%2e%2e HTTP/1.1", NO_ROUTE),
        "dots": (b"GET /v1.0/me/drive/root:/../x: HTTP/1.1", BAD),
        "encoded dots": (b"GET /v1.0/me/drive/items/%2e%2e HTTP/1.1", BAD),
        "an encoded slash": (b"GET /v1.0/me/drive/items/a%2Fb HTTP/1.1", BAD),
        "an encoded backslash": (b"GET /v1.0/me/drive/items/a%5Cb HTTP/1.1", BAD),
        "an encoded NUL": (b"GET /v1.0/me/drive/items/a%00b HTTP/1.1", BAD),
        "a colon in a path": (b"GET /v1.0/me/drive/root:/a:/permissions HTTP/1.1", NO_ROUTE),
        "a version with a line feed": (b"GET /v1.0%0A/me/drive/root HTTP/1.1", NO_ROUTE),
        "half an escape": (b"GET /%2 HTTP/1.1", NO_ROUTE),
        "no escape": (b"GET /%zz HTTP/1.1", NO_ROUTE),
        "bad UTF-8": (b"GET /%ff%fe HTTP/1.1", NO_ROUTE),
        "an absolute target": (b"GET http://y/healthz HTTP/1.1", "200"),
        "an absolute target with a port": (b"GET HTTPS://y:8443/healthz?a HTTP/1.1", "200"),
        "an absolute target without a path": (b"HEAD http://y HTTP/1.1", "200"),
        "an absolute target with a query alone": (b"HEAD http://y?a HTTP/1.1", "200"),
        "a star": (b"OPTIONS * HTTP/1.1", NO_ROUTE),
        "OPTIONS": (b"OPTIONS /healthz HTTP/1.1", NO_METHOD),
        "TRACE": (b"TRACE /healthz HTTP/1.1", NO_METHOD),
        "PUT": (b"PUT /healthz HTTP/1.1", NO_METHOD),
        "a query without end": (b"GET /healthz?" + b"&" * 16_000 + b" HTTP/1.1", "200"),
        "3,200 empty jobs": (b"GET /events?" + b"job=&" * 3200 + b" HTTP/1.1", BAD),
        "1,500 jobs": (b"GET /events?" + b"&".join(b"job=%d" % n for n in range(1500)) + b" HTTP/1.1", BAD),
    }.items():
        yield f"a target: {name}", request(first=line), answer
    old = b"GET /healthz HTTP/1.1"
    wide = b"," * 120_000
    for name, lines in {
        "an Accept of commas": (old, b"Accept: " + wide),
        "empty lines before it": (b"\r\n\n\r\n" + old,),
        "a header without a value": (old, b"A:"),
        "a value of spaces": (old, b"A:" + b" " * 100_000),
        "spaces in front of a value": (old, b"A:" + b" \t" * 50_000 + b"b"),
        "a value in Latin-1": (old, b"A: \xe9\xff"),
        "as many headers as may be": (old, *(b"a%d: b" % number for number in range(FIELDS_LIMIT - 1))),
        "cookies": (old, b"Cookie: " + b"a=b; " * 25_000),
        "an Expect without a body": (old, b"Expect: 100-continue"),
        "another Expect": (old, b"Expect: 200-ok"),
        "Connection of everything": (old, b"Connection: keep-alive, host, accept, te"),
        "TE and Trailer": (old, b"TE: trailers", b"Trailer: Host"),
        "a client-request-id without end": (old, b"client-request-id: " + b"a" * 100_000),
        "a traceparent without end": (old, b"traceparent: " + b"0" * 100_000),
        "an Origin without end": (old, b"Origin: " + b"a" * 100_000),
        "an empty Host is a host": (b"GET /healthz HTTP/1.0",),
    }.items():
        yield name, request(*lines[1:], first=lines[0]), "200"
    for name, line in {
        "an Accept of streams": b"Accept: " + b"text/event-stream;q=0," * 5_500,
        "an Accept of parameters": b"Accept: " + b"text/event-stream" + b";q=0" * 30_000,
        "tags": b"If-None-Match: " + b",".join(b'"%d"' % number for number in range(100_000, 114_000)),
        "preferences": b"Prefer: " + b"wait=," * 20_000,
        "quoted preferences": b'Prefer: "' + b'\\"' * 60_000,
        "a last id": b"Last-Event-ID: " + b"1," * 60_000,
        "a wait of digits": b"Prefer: wait=" + b"9" * 120_000,
    }.items():
        yield name, request(line, first=b"GET /jobs/{ended} HTTP/1.1"), "200"
    yield (
        "a preflight",
        request(b"Origin: http://x", b"Access-Control-Request-Method: GET", first=b"OPTIONS /jobs HTTP/1.1"),
        "400 corsNotAllowed",
    )
    yield (
        "a preflight without end",
        request(
            b"Origin: http://x",
            b"Access-Control-Request-Method: GET",
            b"Access-Control-Request-Headers: " + b"a," * 60_000,
            first=b"OPTIONS /jobs HTTP/1.1",
        ),
        "400 corsNotAllowed",
    )
    yield (
        "metrics with an Accept without end",
        request(b"Accept: " + b"application/openmetrics-text;version=9," * 3_000, first=b"HEAD /metrics HTTP/1.1"),
        "200",
    )
    yield (
        "a bearer token without end",
        request(b"Authorization: Bearer " + b"a" * 120_000, first=b"GET /jobs HTTP/1.1"),
        NO_KEY,
    )
    yield "a list of schemes", request(b"Authorization: " + b"Bearer " * 17_000, first=b"GET /jobs HTTP/1.1"), NO_KEY


def upgrades() -> Iterator[tuple[str, tuple[bytes, ...], tuple[str, ...], End]]:
    """`Upgrade` is ignored, with and without a body, in one piece and in many."""
    h2c = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    ws = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: eA==", b"Sec-WebSocket-Version: 13")
    tls = (b"Connection: upgrade", b"Upgrade: TLS/1.0")
    for name, lines in {"h2c": h2c, "websocket": ws, "TLS": tls, "two": (*h2c, b"Upgrade: x, y/1")}.items():
        get, with_body = request(*lines), of_length(2, b"[]", *lines)
        in_chunks = post(b"Transfer-Encoding: chunked", *lines, body=b"2\r\n[]\r\n0\r\n\r\n")
        yield f"an upgrade: {name}", (get,), ("200",), "open"
        yield f"an upgrade: {name}, in pieces", cut(get, 7), ("200",), "open"
        yield f"an upgrade: {name}, and a body", (with_body,), (BAD,), "open"
        yield f"an upgrade: {name}, and a body in pieces", cut(with_body, 7), (BAD,), "open"
        yield f"an upgrade: {name}, and chunks", (in_chunks,), (BAD,), "open"
        yield f"an upgrade: {name}, and chunks in pieces", cut(in_chunks, 7), (BAD,), "open"
        yield (
            f"an upgrade: {name}, and a request behind",
            (get + GET + with_body + GET,),
            (*("200", "200", BAD, "200"),),
            "open",
        )
        hidden = of_length(len(GET), GET, *lines)
        yield f"an upgrade: {name}, and a request as the body", (hidden,), (BAD,), "open"


def bodies() -> Iterator[tuple[str, tuple[bytes, ...], tuple[str, ...], End]]:
    """Bodies in their right and wrong sizes, and who reads them."""
    yield "no object", (of_length(2, b"[]"),), (BAD,), "open"
    yield "no object, in bytes", cut(of_length(2, b"[]")), (BAD,), "open"
    yield "no body", (post(),), (BAD,), "open"
    yield "no object, in chunks", (chunked(b"2\r\n[]\r\n0\r\n\r\n"),), (BAD,), "open"
    yield "no object, in bytes of chunks", cut(chunked(b"1;a=b\r\n[\r\n01\r\n]\r\n000\r\n\r\n")), (BAD,), "open"
    yield "chunks of empty lines", (chunked(b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n") + GET,), (BAD, "200"), "open"
    yield "chunks of last chunks", (chunked(b"a\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n") + GET,), (BAD, "200"), "open"
    yield "a trailer", (chunked(b"2\r\n[]\r\n0\r\nA: b\r\n\r\n") + GET,), (BAD, "200"), "open"
    trailer = b"0\r\nAuthorization: Bearer operator-key-for-tests\r\nHost: y\r\n\r\n"
    yield "a key in a trailer", (chunked(trailer, b"/jobs") + GET,), (NO_KEY, "200"), "open"
    yield "a length in a trailer", (chunked(b"0\r\nContent-Length: 9\r\n\r\n") + GET,), (BAD,), "closed"
    yield "a trailer without end", (chunked(b"0\r\nA: " + b"a" * 100_000),), (LARGE_BODY,), "closed"
    yield "trailers without end", (chunked(b"0\r\n" + b"A: b\r\n" * 20_000),), (LARGE_BODY,), "closed"
    yield "an extension without end", (chunked(b"1;" + b"a" * 100_000),), (LARGE_BODY,), "closed"
    yield "an extension without end, in pieces", (chunked(b"1;"), *[b"a" * 4000] * 30), (LARGE_BODY,), "closed"
    yield "extensions without end", (chunked(b"1;a=bbbbbbbbbbbbbbbbbbb\r\nx\r\n" * 2_000),), (LARGE_BODY,), "closed"
    yield "chunks of one byte", (chunked(b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n") + GET,), (BAD, "200"), "open"
    yield "chunks of lines", (chunked(b"f000\r\n" + b"\r\n" * 30_720 + b"\r\n0\r\n\r\n") + GET,), (BAD, "200"), "open"
    yield (
        "chunks without end",
        (chunked(b"f000\r\n" + b"x" * 61_440 + b"\r\n") + b"f000\r\n" + b"x" * 61_440,),
        (LARGE_BODY,),
        "closed",
    )
    yield "a body too large", (of_length(70_000, b"x" * 69_999),), (LARGE_BODY,), "closed"
    yield "a body of megabytes", (of_length(8 << 20, b"x" * (8 << 20)),), (LARGE_BODY,), "closed"
    yield "a body too large that never comes", (of_length(1 << 40, b""),), (LARGE_BODY,), "closed"
    yield "a body to nowhere", (of_length(70_000, b"x" * 69_999, to=b"/nowhere"),), (NO_ROUTE,), "closed"
    yield "half a body to nowhere", (of_length(9, b"x", to=b"/nowhere"),), (NO_ROUTE,), "closed"
    yield "a body to health", (of_length(9, b"x" * 9, to=b"/healthz"),), (NO_METHOD,), "open"
    yield "half a body without a key", (of_length(9, b"x", to=b"/jobs"),), (NO_KEY,), "closed"
    smuggled = of_length(len(GET) + 1, GET, to=b"/nowhere")
    yield "a request in a body that is not whole", (smuggled,), (NO_ROUTE,), "closed"
    yield "a request in a body", (of_length(len(GET), GET, to=b"/nowhere") + GET,), (NO_ROUTE, "200"), "open"
    expects = (b"Expect: 100-continue",)
    yield "an Expect, refused", (of_length(1 << 20, b"", *expects),), (LARGE_BODY,), "closed"
    yield "an Expect without a key", (of_length(9, b"", *expects, to=b"/jobs"),), (NO_KEY,), "closed"
    yield "an Expect to nowhere, and a request", (of_length(99, GET, *expects, to=b"/nowhere"),), (NO_ROUTE,), "closed"
    yield "an Expect with its body", (of_length(2, b"[]", *expects) + GET,), ("100", BAD, "200"), "open"
    yield (
        "an Expect of HTTP/1.0",
        (request(b"Content-Length: 2", *expects, first=b"POST " + COPY + b" HTTP/1.0") + b"[]",),
        (BAD,),
        "closed",
    )
    yield "a compressed body", (of_length(2, b"[]", b"Content-Encoding: gzip"),), ("415 unsupportedMediaType",), "open"


def limits() -> Iterator[tuple[str, tuple[bytes, ...], tuple[str, ...], End]]:
    """Heads at their limits and beyond them, whole and without end."""
    yield "a head at its limit", (of_size(HEAD_LIMIT),), ("200",), "open"
    yield "a head at its limit, in pieces", cut(of_size(HEAD_LIMIT), 5000), ("200",), "open"
    yield "a head beyond its limit", (of_size(HEAD_LIMIT + 1),), (LARGE_HEAD,), "closed"
    yield "a head beyond its limit, in pieces", cut(of_size(HEAD_LIMIT + 1), 5000), (LARGE_HEAD,), "closed"
    yield "a head beyond its limit behind a request", (GET + of_size(HEAD_LIMIT + 1),), ("200", LARGE_HEAD), "closed"
    yield "two heads at their limit", (of_size(HEAD_LIMIT) * 2,), ("200", "200"), "open"
    yield "a header of megabytes", (GET[:-2] + b"A: " + b"a" * (8 << 20),), (LARGE_HEAD,), "closed"
    yield "lines of megabytes", (GET[:-2] + b"A: b\r\n" * (1 << 20),), (LARGE_HEAD,), "closed"
    yield "a header too many", (request(*[b"A: b"] * FIELDS_LIMIT),), (LARGE_HEAD,), "closed"
    yield "short headers", (request(*[b"a:"] * 30_000),), (LARGE_HEAD,), "closed"
    yield "a first line at its limit", (of_line(FIRST_LINE_LIMIT),), ("200",), "open"
    yield "a first line at its limit, in pieces", cut(of_line(FIRST_LINE_LIMIT), 1000), ("200",), "open"
    yield "a first line beyond its limit", (of_line(FIRST_LINE_LIMIT + 1),), (LONG_LINE,), "closed"
    yield "a first line beyond its limit, in pieces", cut(of_line(FIRST_LINE_LIMIT + 1), 1000), (LONG_LINE,), "closed"
    yield "a first line of megabytes", (b"GET /" + b"a" * (8 << 20),), (LONG_LINE,), "closed"
    yield "a first line of spaces", (b"GET " + b" " * 20_000,), (BAD,), "closed"
    yield "a method without end", (b"G" * 20_000,), (BAD,), "closed"
    yield "empty lines without end", (b"\r\n" * 1_000_000 + GET,), ("200",), "open"
    yield "NULs", (b"\0" * 1_000_000,), (BAD,), "closed"
    yield "a head in bytes", cut(GET), ("200",), "open"
    yield "a refused head that asks for no body", (request(first=b"HEAD /healthz HTTP/2.0"),), ("505",), "closed"


def pipelines() -> Iterator[tuple[str, tuple[bytes, ...], tuple[str, ...], End]]:
    """Many requests at once, also around a stream."""
    nowhere = request(first=b"GET /nowhere HTTP/1.1")
    stream = request(first=b"GET /jobs/{ended}/events HTTP/1.1")
    last = request(b"Connection: close")
    yield "two", (GET + nowhere,), ("200", NO_ROUTE), "open"
    yield "a thousand", (GET * 1000,), ("200",) * 1000, "open"
    yield "a thousand bodies", (of_length(2, b"[]") * 1000,), (BAD,) * 1000, "open"
    yield "three thousand, and no more", (GET * 2_999 + last,), ("200",) * 3_000, "closed"
    yield "in bytes", cut(GET + nowhere + GET), ("200", NO_ROUTE, "200"), "open"
    yield "behind a close", (last + GET,), ("200",), "closed"
    yield "behind HTTP/1.0", (request(first=b"GET /healthz HTTP/1.0") + GET,), ("200",), "closed"
    yield "behind a malformed one", (request(host=None) + GET,), (BAD,), "closed"
    yield "a malformed one behind", (GET + GET + request(host=None) + GET,), ("200", "200", BAD), "closed"
    yield "noise behind", (GET + b"\0\1\2",), ("200", BAD), "closed"
    yield "half a request behind", (GET + GET[:20], GET[20:]), ("200", "200"), "open"
    yield "around a stream", (GET + stream + nowhere,), ("200", "200", NO_ROUTE), "open"
    before, job, behind = (GET + stream + nowhere).partition(ENDED)
    yield "around a stream, in bytes", (*cut(before), job, *cut(behind)), ("200", "200", NO_ROUTE), "open"
    yield "streams", (stream * 20,), ("200",) * 20, "open"
    yield "a malformed one behind a stream", (stream + request(host=None),), ("200", BAD), "closed"
    yield "noise behind a stream", (stream + b"\0" * 60_000,), ("200", BAD), "closed"
    yield "a body behind a stream", (stream + of_length(2, b"[]") + GET,), ("200", BAD, "200"), "open"
    yield (
        "half a body of a stream",
        (request(b"Content-Length: 9", first=b"GET /jobs/{ended}/events HTTP/1.1") + b"x",),
        ("200",),
        "closed",
    )
    yield (
        "a body of a stream",
        (request(b"Content-Length: %d" % len(GET), first=b"GET /jobs/{ended}/events HTTP/1.1") + GET + nowhere,),
        ("200", NO_ROUTE),
        "open",
    )
    yield (
        "malformed chunks of a stream",
        (request(b"Transfer-Encoding: chunked", first=b"GET /jobs/{ended}/events HTTP/1.1") + b"x",),
        (BAD,),
        "closed",
    )


def all_cases() -> dict[str, Case]:
    """By name."""
    found: dict[str, Case] = {}

    def add(name: str, pieces: Iterable[bytes], answers: Iterable[str], end: End) -> None:
        assert name not in found, name
        found[name] = Case(tuple(pieces), tuple(answers), end)

    for group in (first_lines, headers, framings):
        for name, data, answer in group():
            add(f"{group.__name__}: {name}", [data], [answer], "closed")
    for name, data, answer in targets():
        add(f"well-formed: {name}", [data], [answer], "closed" if b"HTTP/1.0" in data else "open")
    for many in (upgrades, bodies, limits, pipelines):
        for name, pieces, answers, end in many():
            add(f"{many.__name__}: {name}", pieces, answers, end)
    return found
