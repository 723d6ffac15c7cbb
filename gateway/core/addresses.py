"""Which hosts and network addresses the gateway may dial."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import msgspec

DEFAULT_MONITOR_HOSTS = (
    "graph.microsoft.com",
    "graph.microsoft.us",
    "dod-graph.microsoft.us",
    "graph.microsoft.de",
    "microsoftgraph.chinacloudapi.cn",
    "graph.microsoft.scloud",
    "dod-graph.microsoft.scloud",
    "graph.eaglex.ic.gov",
    "graph.svc.sovcloud.fr",
    "graph.svc.sovcloud.de",
    "graph.svc.sovcloud.sg",
    "api.onedrive.com",
    "onedrive.com",
    "*.onedrive.com",
    "onedrive.live.com",
    "*.microsoftpersonalcontent.com",
    "*.sharepoint.com",
    "*.sharepoint.us",
    "*.sharepoint-mil.us",
    "*.sharepoint.cn",
    "*.sharepoint.de",
    "*.dps.mil",
    "*.spo.microsoft.scloud",
    "*.spo.eaglex.ic.gov",
    "*.sovcloud-sharepoint.fr",
    "*.sovcloud-sharepoint.de",
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPED = re.compile(rb"[\x80-\xff ]")
_LISTENING = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\]")
_DIALLED = re.compile(r"[a-z0-9._:-]+")  # no character that only some URL parsers decode
_BRACKETED = re.compile(r"\[[^\[\]]*\](:[0-9]*)?")  # urlsplit reads `a[::1]b` as `::1`
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NAT64 = IPv6Network("64:ff9b::/96")
_NEVER: tuple[IPv4Network | IPv6Network, ...] = (
    # addresses that embed another address, and addresses of tunnels
    IPv6Network("::/96"),
    IPv6Network("64:ff9b:1::/48"),
    IPv6Network("2001::/32"),
    IPv6Network("2002::/16"),
    IPv4Network("192.88.99.0/24"),
    # special-purpose ranges that some supported Python versions do not know
    IPv4Network("192.0.0.0/24"),
    IPv6Network("3fff::/20"),
    IPv6Network("5f00::/16"),
    IPv6Network("fec0::/10"),
)

Network = IPv4Network | IPv6Network


_SHAREPOINT = re.compile(
    r"\.sharepoint(-mil)?\.(com|us|cn|de)$|\.dps\.mil$|\.spo\.(microsoft\.scloud|eaglex\.ic\.gov)$"
    r"|\.sovcloud-sharepoint\.(fr|de)$"
)
_ONEDRIVE = re.compile(r"(^|\.)(onedrive\.com|onedrive\.live\.com|microsoftpersonalcontent\.com)$")
_GRAPH = re.compile(
    r"(^|[.-])graph\.microsoft\.(com|us|de|scloud)$|^microsoftgraph\.chinacloudapi\.cn$"
    r"|^graph\.eaglex\.ic\.gov$|^graph\.svc\.sovcloud\.(fr|de|sg)$"
)

HostClass = Literal["graph", "sharepoint", "onedrive", "other"]


class Objection(StrEnum):
    """The rule that a callback's URL breaks, worded to follow "the callback's url"."""

    FORM = "must be an absolute https URL in plain ASCII"
    USER_INFO = "must not carry user info"
    SCHEME = "must be https"
    PORT = "must use port 443, or one from 1024 to 65535"
    HOST = "must name its host as a DNS name or an address in its usual form"
    ADDRESS = "must lead to public addresses only"

    @property
    def liftable(self) -> bool:
        """Whether the rule does not hold in the networks that the operator allows."""
        return self in {Objection.SCHEME, Objection.PORT, Objection.ADDRESS}


class ReceiverRule(msgspec.Struct, frozen=True):
    """Where callbacks may go: by https to public addresses, at port 443 or an unprivileged port; and anywhere in the
    `allowed` networks.
    """

    allowed: Sequence[Network] = ()

    def objection(self, url: str) -> Objection | None:
        """Why a URL is refused as written; None when only its addresses remain to be judged."""
        parts = split(url)
        if parts is None:
            return _why_not_split(url)
        if parts.username is not None or parts.password is not None:
            return Objection.USER_INFO
        if not self.allowed:  # else the address decides whether these rules hold
            if parts.scheme != "https":
                return Objection.SCHEME
            if not _is_receiver_port(port_of(parts)):
                return Objection.PORT
        return None if _is_plain_host(parts.hostname or "") else Objection.HOST

    def refusal(self, address: str, port: int, *, tls: bool) -> Objection | None:
        """Why an address may not be dialled on this port, with or without TLS; None if it may."""
        parsed = _parsed(address)
        if parsed is not None and any(parsed in network for network in self.allowed):
            return None
        if not tls:
            return Objection.SCHEME
        if not _is_receiver_port(port):
            return Objection.PORT
        return None if is_public(address) else Objection.ADDRESS


class HostPattern(msgspec.Struct, frozen=True):
    """`host` or `*.host` (any name below `host`), on one port."""

    name: str
    port: int = 443

    def matches(self, host: str, port: int) -> bool:
        if port != self.port:
            return False
        return host.endswith(self.name[1:]) if self.name.startswith("*.") else host == self.name


def host_pattern(text: str) -> HostPattern:
    """Parse `host` or `*.host`, each with an optional `:port`. Raises ValueError."""
    name, colon, port = text.strip().lower().rpartition(":")
    if not colon or name.count("[") != name.count("]"):
        name, port = text.strip().lower(), "443"
    if not _HOST.fullmatch(name) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not host, *.host, host:port or *.host:port")
    return HostPattern(name.strip("[]"), int(port))


def proxy_url(url: str) -> str:
    """Validate the URL of an HTTP proxy. Raises ValueError."""
    parts = split(url)
    try:
        port = parts.port if parts is not None and parts.scheme == "http" else None
        for secret in (parts.username, parts.password) if parts is not None else ():
            unquote(secret or "", errors="strict").encode("latin-1")  # how aiohttp sends them
    except ValueError:
        port = None
    if parts is None or not port or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(
            "must be the URL of an HTTP proxy, such as http://proxy.example.com:3128 or "
            "http://user:password@proxy.example.com:3128; in a password, @ is %40, : is %3A and / is %2F"
        )
    return url.rstrip("/")


class MonitorRule(msgspec.Struct, frozen=True):
    """Which monitor URLs may be dialled, and whether at any address or only at public addresses.

    `upstream` is the base URL of upstream; `patterns` are the other allowed hosts, and `allowed` the networks that they
    may be in besides public ones.
    """

    upstream: str
    patterns: Sequence[HostPattern]
    allowed: Sequence[Network] = ()

    def reaches(self, address: str) -> bool:
        """Whether another allowed host may be dialled at this address."""
        parsed = _parsed(address)
        return is_public(address) or (parsed is not None and any(parsed in network for network in self.allowed))

    def judge(self, url: str) -> Literal["own", "public"] | None:
        """`own` for the upstream's own host, `public` for another allowed host, None for a refused URL."""
        parts = split(url)
        own = urlsplit(self.upstream)
        if parts is None or parts.username is not None or parts.password is not None:
            return None
        host = (parts.hostname or "").rstrip(".")
        if host == own.hostname and (
            (own.scheme == "http" and parts.scheme in ("http", "https"))
            or (parts.scheme == own.scheme and port_of(parts) == port_of(own))
        ):
            return "own"
        if parts.scheme != "https":
            return None
        port = port_of(parts)
        return "public" if any(pattern.matches(host, port) for pattern in self.patterns) else None


@lru_cache(maxsize=16)  # a monitor URL is split several times in a row: to resolve, to judge and to dial
def split(url: str) -> SplitResult | None:
    """The parts of an absolute http or https URL in plain ASCII, or None."""
    if not _is_plain(url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    if "[" in parts.netloc and not _BRACKETED.fullmatch(parts.netloc.rpartition("@")[2]):
        return None
    return parts if parts.scheme in ("http", "https") and _DIALLED.fullmatch(parts.hostname or "") else None


def resolved(base: str, location: str) -> str | None:
    """A `Location` header as an absolute URL; None when it is not a valid URL.

    Spaces, and bytes beyond ASCII, are percent-encoded, as browsers do. aiohttp hands over bytes that are no UTF-8 as
    surrogates.
    """
    if not location or _CONTROL.search(location):
        return None
    if location.startswith(("https://", "http://")) and split(location) is not None:
        return location
    raw = location.strip(" ").encode("utf-8", "surrogateescape")
    escaped = _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], raw).decode("ascii")
    try:
        url = urljoin(base, escaped)
    except ValueError:
        return None
    return url if split(url) is not None else None


def port_of(parts: SplitResult) -> int:
    if parts.port is not None:
        return parts.port
    return 443 if parts.scheme == "https" else 80


def browser_origin(text: str) -> str:
    """Validate a browser's origin or `*`. Raises ValueError."""
    parts = split(text)
    if text != "*" and (parts is None or text != f"{parts.scheme}://{parts.netloc}" or parts.username is not None):
        raise ValueError
    return text


def place_to_listen(host: str) -> str:
    """Validate an IP address or host name to listen on. Raises ValueError."""
    if not _LISTENING.fullmatch(host) and not is_address(host):
        raise ValueError(
            "must be an address or a name of this machine, without a scheme or a port: 127.0.0.1, for example, or "
            "0.0.0.0 for every address"
        )
    return host


def origin(url: str) -> str:
    """Scheme, host and port of an http or https URL in canonical form; empty for any other URL."""
    parts = split(url)
    if parts is None:
        return ""
    host = (parts.hostname or "").rstrip(".")
    address = _parsed(host)
    if address is not None:
        host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    port = port_of(parts)
    return f"{parts.scheme}://{host}" + ("" if port == (443 if parts.scheme == "https" else 80) else f":{port}")


def host_class(host: str) -> HostClass:
    """The upstream service of a host, with or without its port. Metrics and logs show this class, not the host."""
    name = host.lower().partition(":")[0].rstrip(".")
    if _GRAPH.search(name):
        return "graph"
    if _SHAREPOINT.search(name):
        return "sharepoint"
    return "onedrive" if _ONEDRIVE.search(name) else "other"


def is_address(host: str) -> bool:
    return _parsed(host) is not None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_public(address: str) -> bool:
    """Whether an IP address is public and unicast; False for a string that is no IP address.

    An IPv4-mapped or NAT64 address is judged by its IPv4 address. A tunnel address (6to4, Teredo) is never public.
    """
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address) and parsed in _NAT64:
        parsed = IPv4Address(int(parsed) & 0xFFFFFFFF)
    if parsed is None or any(parsed in network for network in _NEVER):
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """The IP address without its zone, an IPv4-mapped address as IPv4; None for a string that is no IP address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def _is_plain(url: str) -> bool:
    """Whether a URL is in printable ASCII without spaces and backslashes, which parsers read in different ways."""
    return url.isascii() and url.isprintable() and " " not in url and "\\" not in url


def _why_not_split(url: str) -> Objection:
    """The objection to a URL that `split` refuses."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets
        return Objection.HOST
    if not _is_plain(url) or not parts.scheme or not parts.netloc:
        return Objection.FORM
    if parts.scheme not in ("http", "https"):
        return Objection.SCHEME
    try:
        _ = parts.port
    except ValueError:
        return Objection.PORT
    return Objection.HOST


def _is_receiver_port(port: int) -> bool:
    """Whether a port is that of https or unprivileged: below 1024 are the ports of other protocols' servers."""
    return port == 443 or port >= 1024


def _is_plain_host(host: str) -> bool:
    """Whether a host is a DNS name or an IP address in its usual form.

    Decimal, octal, hexadecimal and short forms are refused: only some parsers read them as IPv4 addresses.
    """
    if ":" in host:
        return _parsed(host) is not None
    labels = host.removesuffix(".").split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        return False
    numeric = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]) is not None
    return not numeric or (_parsed(host) is not None)
