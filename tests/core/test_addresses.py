"""Which hosts and addresses may be dialled."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.core.addresses import (
    DEFAULT_MONITOR_HOSTS,
    HostPattern,
    MonitorRule,
    host_class,
    host_pattern,
    is_loopback,
    is_public,
    origin,
    proxy_url,
)

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NOT_PUBLIC = [
    *("127.0.0.1", "127.255.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.0.0.1", "192.88.99.1"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1"),
    *("fd00::1", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "100::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("::ffff:a9fe:a9fe", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"),
    *("2002:7f00:1::", "2002:808:808::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "5f00::1"),
    *("localhost", "2130706433", "127.1", "0x7f.0.0.1", "[::1]", "", "1.2.3.4.5"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    """Global unicast, also when carried by IPv6."""
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_every_other_address(address: str) -> None:
    """Special ranges, tunnels, embedded private ones, and what is no address."""
    assert not is_public(address)


RULE = MonitorRule("https://graph.microsoft.com", [host_pattern(text) for text in DEFAULT_MONITOR_HOSTS])
LOCAL = MonitorRule("http://127.0.0.1:9000", [host_pattern("*.example.com"), host_pattern("one.example.org:8443")])


@pytest.mark.parametrize(
    ("url", "verdict"),
    [
        ("https://graph.microsoft.com/v1.0/x", "own"),
        ("https://GRAPH.microsoft.com/v1.0/x", "own"),
        ("https://graph.microsoft.com:8443/x", None),
        ("http://graph.microsoft.com/x", None),
        ("https://api.onedrive.com/monitor/1", "public"),
        ("https://contoso.sharepoint.com/_api/v2.0/monitor/1?tempauth=x", "public"),
        ("https://contoso-my.sharepoint.com./x", "public"),
        ("https://sharepoint.com/x", None),
        ("https://sharepoint.com.evil.org/x", None),
        ("https://evilsharepoint.com/x", None),
        ("https://contoso.sharepoint.com:444/x", None),
        ("http://contoso.sharepoint.com/x", None),
        ("https://api.onedrive.com@evil.org/x", None),
        ("https://user:pw@api.onedrive.com/x", None),
        ("https://@api.onedrive.com/x", None),
        ("https://api.onedrive.com\\@evil.org/x", None),
        ("https://evil.org/api.onedrive.com", None),
        ("https://127.0.0.1/x", None),
        ("https://[::1]/x", None),
        ("https://169.254.169.254/x", None),
        ("https://contoso.sharepo\u0131nt.com/x", None),
        ("ftp://api.onedrive.com/x", None),
        ("file:///etc/passwd", None),
        ("//api.onedrive.com/x", None),
        ("https:///x", None),
        ("https://api.onedrive.com:x/", None),
        ("https://api.onedrive.com/a b", None),
        ("https://api.onedrive.com/\nx", None),
        ("", None),
    ],
)
def test_monitors_of_graph_itself(url: str, verdict: str | None) -> None:
    """The upstream's own host, or https on a listed one, without user info."""
    assert RULE.judge(url) == verdict


@pytest.mark.parametrize(
    ("url", "verdict"),
    [
        ("http://127.0.0.1:9000/m/1", "own"),
        ("http://127.0.0.1:1234/m/1", "own"),
        ("http://127.0.0.2:9000/m/1", None),
        ("http://localhost:9000/m/1", None),
        ("https://a.example.com/m", "public"),
        ("https://a.b.example.com/m", "public"),
        ("https://example.com/m", None),
        ("https://one.example.org:8443/m", "public"),
        ("https://one.example.org/m", None),
        ("https://graph.microsoft.com/m", None),
    ],
)
def test_monitors_of_a_simulated_upstream(url: str, verdict: str | None) -> None:
    """An upstream over http, on loopback, may have its monitors on any port of its host."""
    assert LOCAL.judge(url) == verdict


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("graph.microsoft.com", "graph"),
        ("graph.microsoft.us", "graph"),
        ("dod-graph.microsoft.us", "graph"),
        ("graph.microsoft.de", "graph"),
        ("microsoftgraph.chinacloudapi.cn", "graph"),
        ("graph.microsoft.scloud", "graph"),
        ("dod-graph.microsoft.scloud", "graph"),
        ("graph.eaglex.ic.gov", "graph"),
        ("graph.svc.sovcloud.fr", "graph"),
        ("graph.svc.sovcloud.de", "graph"),
        ("graph.svc.sovcloud.sg", "graph"),
        ("contoso.sharepoint.com", "sharepoint"),
        ("contoso.sharepoint.us", "sharepoint"),
        ("contoso.sharepoint-mil.us", "sharepoint"),
        ("contoso.dps.mil", "sharepoint"),
        ("contoso-my.dps.mil", "sharepoint"),
        ("contoso.sharepoint.cn", "sharepoint"),
        ("contoso.sharepoint.de", "sharepoint"),
        ("contoso.spo.microsoft.scloud", "sharepoint"),
        ("contoso.spo.eaglex.ic.gov", "sharepoint"),
        ("contoso.sovcloud-sharepoint.fr", "sharepoint"),
        ("contoso.sovcloud-sharepoint.de", "sharepoint"),
        ("api.onedrive.com", "onedrive"),
        ("my.microsoftpersonalcontent.com", "onedrive"),
    ],
)
def test_the_hosts_of_every_cloud(host: str, kind: str) -> None:
    """Monitors of each are taken, and counted as what they are."""
    rule = MonitorRule("https://upstream.example", [host_pattern(text) for text in DEFAULT_MONITOR_HOSTS])
    assert rule.judge(f"https://{host}/m") == "public"
    assert host_class(host) == host_class(f"{host.upper()}:443") == kind


@pytest.mark.parametrize(
    "host", ["dps.mil", "notdps.mil", "microsoft.scloud", "eaglex.ic.gov", "spo.eaglex.ic.gov.evil.org"]
)
def test_the_names_above_and_beside_them(host: str) -> None:
    """They are not taken."""
    assert RULE.judge(f"https://{host}/m") is None
    assert host_class(host) == "other"


def test_networks_that_monitors_may_be_in() -> None:
    """Besides public ones; an IPv4 address carried by IPv6 counts as itself."""
    rule = MonitorRule("https://graph.microsoft.com", (), [ip_network("198.18.0.0/15"), ip_network("fd00::/8")])
    for address in ("8.8.8.8", "198.18.0.1", "198.19.255.255", "::ffff:198.18.0.1", "fd00::1"):
        assert rule.reaches(address)
    for address in ("127.0.0.1", "10.0.0.1", "198.20.0.1.x", "fc00::1", "localhost", ""):
        assert not rule.reaches(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://proxy.example.com:3128",
        "http://proxy.example.com:3128/",
        "http://10.0.0.1:8080",
        "http://[::1]:8080",
        "http://user:p%40ss%3A@proxy.example.com:3128",
        "http://user@proxy.example.com:3128",
        "http://user:pw@localhost:1",
    ],
)
def test_proxies(url: str) -> None:
    """A host and a port over http, with or without user and password."""
    assert proxy_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "https://proxy.example.com:3128",
        "socks5://proxy.example.com:1080",
        "proxy.example.com:3128",
        "http://proxy.example.com",
        "http://proxy.example.com:0",
        "http://proxy.example.com:x",
        "http://proxy.example.com:3128/path",
        "http://proxy.example.com:3128?x=1",
        "http://proxy.example.com:3128#x",
        "http://:3128",
        "http://user:p/w@proxy.example.com:3128",
        "http://user:%ff@proxy.example.com:3128",
        "http://user:%E2%82%AC@proxy.example.com:3128",
        "http://proxy .example.com:3128",
        "",
    ],
)
def test_what_is_no_proxy(url: str) -> None:
    """Another scheme, no port, more than a place, and a password that could not be sent."""
    with pytest.raises(ValueError, match="must be the URL of an HTTP proxy"):
        proxy_url(url)


@pytest.mark.parametrize(
    "text", ["", "*", "*.", "a..b", "a:b", "a:0", "a:65536", "https://a", "a/b", "a b", "-a.com", "*.*.a"]
)
def test_patterns_that_are_none(text: str) -> None:
    """A host or a host below which any name goes, with a port if wished; nothing else."""
    with pytest.raises(ValueError, match="is not host"):
        host_pattern(text)


def test_patterns() -> None:
    """The port is 443 unless it is named."""
    assert host_pattern("A.com") == HostPattern("a.com", 443)
    assert host_pattern("*.a.com:8443") == HostPattern("*.a.com", 8443)
    assert host_pattern("[::1]:9") == HostPattern("::1", 9)
    assert is_loopback("localhost")
    assert is_loopback("127.0.0.5")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.com")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/",
        "https://EXAMPLE.com/hook?token=hidden#x",
        "HTTPS://Example.Com:443",
        "https://example.com.:443/hook",
        "https://example.com:0443/",
        "https://example.com:/",
    ],
)
def test_an_origin_is_written_in_one_way(url: str) -> None:
    """However the URL is."""
    assert origin(url) == "https://example.com"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com:80/", "http://example.com"),
        ("http://example.com:443/", "http://example.com:443"),
        ("https://example.com:80/", "https://example.com:80"),
        ("https://[2606:4700:0:0:0:0:0:1111]/", "https://[2606:4700::1111]"),
        ("https://a[::1]/", ""),
        ("https://[::1]a:443/", ""),
        ("https://[::FFFF:8.8.8.8]/", "https://8.8.8.8"),
        ("ftp://example.com/", ""),
        ("https://user:hidden@example.com/", "https://example.com"),
    ],
)
def test_origins(url: str, expected: str) -> None:
    """Scheme, host, and the port unless it is the scheme's own; never more of the URL."""
    assert origin(url) == expected
