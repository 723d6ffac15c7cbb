"""Where callbacks may go: a table of URLs through the real check, names answered by a name server of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
from aiohttp import web

from gateway.callbacks.receivers import Receivers
from gateway.core.addresses import Objection, ReceiverRule
from gateway.core.callback import Failed
from gateway.core.errors import GatewayError
from tests.support.fake_names import FakeNames, naming
from tests.support.fake_upstream import faking

PUBLIC, PUBLIC6 = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
NAMES = {
    "public.example": [PUBLIC, PUBLIC6],
    "four.example": [PUBLIC],
    "six.example": [PUBLIC6],
    "internal.example": ["10.1.2.3"],
    "loopback.example": ["127.0.0.1"],
    "loopback6.example": ["::1"],
    "mapped.example": ["::ffff:10.1.2.3"],
    "metadata.example": ["169.254.169.254"],
    "both.example": [PUBLIC, "10.1.2.3"],
    "both6.example": [PUBLIC6, "fd00::1"],
    "link.example": ["fe80::1"],
    "xn--bcher-kva.example": [PUBLIC],
    "nowhere.example": [],
}
ALLOWED = f"""
https://public.example/hook
https://public.example
https://public.example:443/hook
https://public.example:1024/hook
https://public.example:8443/hook
https://public.example:65535/hook
https://public.example./hook
https://PUBLIC.example/hook?a=b#c
HTTPS://public.example/hook
https://four.example/
https://six.example/
https://xn--bcher-kva.example/hook
https://{PUBLIC}/hook
https://{PUBLIC}:443/
https://{PUBLIC}:6443/
https://[{PUBLIC6}]/hook
https://[64:ff9b::5db8:d822]/hook
https://1.1.1.1/%2e%2e/x
https://8.8.8.8/{"x" * 1900}
""".split()
FORM, USER_INFO, SCHEME = "must be an absolute https URL", "must not carry user info", "must be https."
PORT, HOST, ADDRESS = (
    "must use port 443, or one from 1024",
    "must name its host as",
    "must lead to public addresses only",
)
NAME = "must have a host that resolves"
REFUSED = {
    FORM: """
//public.example/hook
/hook
public.example/hook
https:/public.example
https:public.example
https://
https:///hook
https://?x
file:///etc/passwd
javascript:alert(1)
https://public.example\\@10.0.0.1/
https://bücher.example/
https://\uff11\uff12\uff17.0.0.1/
https://127。0。0。1/
""",
    USER_INFO: """
https://user@public.example/
https://user:secret@public.example/
https://:@public.example/
https://public.example@10.0.0.1/
https://public.example%2f@10.0.0.1/
""",
    SCHEME: f"""
http://public.example/hook
http://public.example:8443/hook
http://{PUBLIC}/
http://10.0.0.1/
ftp://public.example/
gopher://public.example/
""",
    PORT: f"""
https://public.example:80/
https://public.example:1/
https://public.example:444/
https://public.example:1023/
https://public.example:0/
https://public.example:65536/
https://pub_lic.example:x/
https://{PUBLIC}:22/
https://10.0.0.1:22/
https://nowhere.example:25/
""",
    NAME: """
https://nowhere.example/
https://nowhere.example:8443/
https://xn--nowhere-9za.example/
https://localhost./
""",
    HOST: """
https://.example/
https://public..example/
https://-public.example/
https://127.0.0.1./
https://127.1/
https://127.0.1/
https://127/
https://2130706433/
https://017700000001/
https://0177.0.0.1/
https://0x7f.0.0.1/
https://0x7f.1/
https://0x7f000001/
https://0/
https://[fe80::1%25eth0]/
https://[::1
""",
    ADDRESS: """
https://internal.example/
https://loopback.example/
https://loopback6.example/
https://mapped.example/
https://metadata.example/latest/meta-data/
https://both.example/
https://both6.example/
https://link.example/
https://localhost/
https://127.0.0.1/
https://127.8.8.8/
https://0.0.0.0/
https://10.0.0.1/
https://172.16.0.1/
https://172.31.255.254/
https://192.168.0.1/
https://169.254.169.254/
https://100.64.0.1/
https://100.127.255.254/
https://192.0.0.1/
https://192.0.2.1/
https://198.18.0.1/
https://198.51.100.1/
https://203.0.113.1/
https://224.0.0.1/
https://239.255.255.250/
https://240.0.0.1/
https://255.255.255.255/
https://[::1]/
https://[::]/
https://[::ffff:127.0.0.1]/
https://[::ffff:7f00:1]/
https://[::ffff:10.0.0.1]/
https://[::127.0.0.1]/
https://[64:ff9b::7f00:1]/
https://[64:ff9b::a00:1]/
https://[64:ff9b:1::1]/
https://[2002:7f00:1::]/
https://[2002:a00:1::1]/
https://[2002:5db8:d822::1]/
https://[2001:0:5db8:d822::1]/
https://[2001:db8::1]/
https://[fc00::1]/
https://[fd12:3456::1]/
https://[fe80::1]/
https://[fec0::1]/
https://[ff02::1]/
https://internal.example:8443/
https://10.0.0.1:8443/
""",
}
OPENED = ["10.0.0.0/8", "127.0.0.0/8", "::1/128", "fd00::/8"]
WHEN_OPENED = {
    "http://10.1.2.3/hook": True,
    "http://internal.example/hook": True,
    "https://internal.example:8443/hook": True,
    "https://10.9.9.9:22/": True,
    "http://[fd00::1]:8080/": True,
    "http://[::ffff:10.1.2.3]/": True,
    "https://both.example/": True,
    "https://public.example/": True,
    "http://public.example/": False,
    "http://both.example/": False,
    "https://public.example:8443/": True,
    "https://public.example:22/": False,
    "https://both.example:22/": False,
    "https://192.168.0.1/": False,
    "http://169.254.169.254/": False,
    "http://user@10.1.2.3/": False,
    "http://0x0a010203/": False,
    "http://167837955/": False,
    "http://localhost/": True,
    "HTTP://10.1.2.3/": True,
    "ftp://10.1.2.3/": False,
}


@pytest.fixture
async def names() -> AsyncIterator[FakeNames]:
    async with naming(dict(NAMES)) as names:
        yield names


@pytest.fixture
async def receivers(names: FakeNames) -> AsyncIterator[Receivers]:
    async with Receivers.open((), [names.server]) as receivers:
        yield receivers


async def refusal(receivers: Receivers, url: str) -> str | None:
    """What is said of a URL that is refused."""
    try:
        await receivers.check(url)
    except GatewayError as error:
        refused = error
    else:
        return None
    assert (refused.kind.status, refused.kind.code) == (400, "callbackUrlNotAllowed")
    return refused.message


@pytest.mark.parametrize("url", ALLOWED)
async def test_public_receivers_are_allowed(receivers: Receivers, url: str) -> None:
    """By https, at port 443 or from 1024 on, all addresses of the name being public."""
    assert await refusal(receivers, url) is None


@pytest.mark.parametrize(("rule", "url"), [(rule, url) for rule, urls in REFUSED.items() for url in urls.split()])
async def test_what_is_refused(receivers: Receivers, rule: str, url: str) -> None:
    """With the rule, without a resolved address, and with the operator's setting where that can help."""
    message = await refusal(receivers, url)
    assert message is not None
    assert message.startswith(f"The callback's url {rule}")
    assert ("GATEWAY_CALLBACK_ALLOW" in message) == (rule in {SCHEME, PORT, ADDRESS})
    assert not any(address in message for found in NAMES.values() for address in found)


def test_the_table_is_as_large_as_it_is_said_to_be() -> None:
    """Nothing in it twice."""
    table = [*ALLOWED, *(url for urls in REFUSED.values() for url in urls.split())]
    assert len(set(table)) == len(table) > 110


async def test_each_rule_has_its_words(receivers: Receivers) -> None:
    """Names that do not resolve are told apart from those that are not public."""
    told = {await refusal(receivers, urls.split()[0]) for urls in REFUSED.values()}
    assert len(told) == len(REFUSED) == len(Objection) + 1


@pytest.mark.parametrize(("url", "allowed"), WHEN_OPENED.items())
async def test_networks_that_the_operator_opens(url: str, allowed: bool, names: FakeNames) -> None:
    """Any port and http there, and nowhere else."""
    async with Receivers.open([ip_network(network) for network in OPENED], [names.server]) as receivers:
        assert (await refusal(receivers, url) is None) == allowed


async def test_a_name_that_changes_is_judged_where_it_is_dialled(receivers: Receivers, names: FakeNames) -> None:
    """Allowed when it was registered; by the time of an attempt it leads inside."""
    async with faking() as inside:
        port = inside.url.rpartition(":")[2]
        for name, addresses in (("four", ["127.0.0.1", "10.1.2.3"]), ("six", ["::1", "::ffff:127.0.0.1"])):
            url = f"https://{name}.example:{port}/"
            await receivers.check(url)
            for address in addresses:
                names.table[f"{name}.example"] = [address]
                assert await receivers.post(url, {}, b"", 0.0) == Failed(f"its url {Objection.ADDRESS}")
            names.table[f"{name}.example"] = []
            assert await receivers.post(url, {}, b"", 0.0) == Failed("its name does not resolve")
        assert inside.asked == []


async def test_a_name_that_changes_within_an_opened_network(names: FakeNames) -> None:
    """Http is for the opened network alone, also when it is dialled."""
    async with faking() as inside, Receivers.open([ip_network("127.0.0.2/32")], [names.server]) as receivers:
        port = inside.url.rpartition(":")[2]
        names.table["four.example"] = ["127.0.0.2"]
        url = f"http://four.example:{port}/"
        await receivers.check(url)
        names.table["four.example"] = ["127.0.0.1"]
        assert await receivers.post(url, {}, b"", 0.0) == Failed(f"its url {Objection.SCHEME}")
        assert inside.asked == []


@pytest.mark.parametrize(
    ("rule", "url"),
    [(rule, url) for rule, urls in REFUSED.items() for url in urls.split() if "both" not in url],  # has a public one
)
async def test_an_attempt_says_the_same(receivers: Receivers, rule: str, url: str) -> None:
    """Of a URL that was stored under another setting, or whose name has changed."""
    outcome = await receivers.post(url, {}, b"", 0.0)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("its name does not resolve" if rule == NAME else f"its url {rule}".rstrip("."))


@pytest.mark.parametrize("port", [443, 1024, 65535])
async def test_a_port_is_judged_where_it_is_dialled(port: int, receivers: Receivers) -> None:
    """As the address is: only TLS makes a public address at this port allowed."""
    assert receivers._refusal(PUBLIC, port, tls=True) is None
    assert receivers._refusal(PUBLIC, port, tls=False) == Objection.SCHEME
    assert receivers._refusal("10.0.0.1", port, tls=True) == Objection.ADDRESS
    assert receivers._refusal(PUBLIC, port % 1000 % 443, tls=True) == Objection.PORT


@pytest.mark.parametrize("scheme", ["http", "HTTP", "Http"])
async def test_a_scheme_in_whatever_case(scheme: str) -> None:
    """What is registered is delivered."""
    async with faking() as inside, Receivers.open([ip_network("127.0.0.0/8")]) as receivers:
        url = inside.url.replace("http", scheme) + "/hook"
        await receivers.check(url)
        await receivers.post(url, {}, b"{}", 0.0)
        assert [path for _, path, _, _ in inside.asked] == ["/hook"]


async def test_https_in_whatever_case_is_dialled_as_such(receivers: Receivers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not judged, when it is dialled, as the http that is allowed nowhere."""
    judged: list[bool] = []

    def refusal(rule: ReceiverRule, address: str, port: int, *, tls: bool) -> Objection:
        judged.append(tls)
        return Objection.ADDRESS

    monkeypatch.setattr(ReceiverRule, "refusal", refusal)
    await receivers.post("HTTPS://four.example/hook", {}, b"", 0.0)
    assert judged == [True]


async def test_a_network_that_the_operator_shut_again() -> None:
    """What was registered before is not dialled any more."""

    async def never(_request: web.Request) -> web.Response:
        raise AssertionError

    async with faking() as inside, Receivers.open(()) as receivers:
        inside.on_copy = never
        assert isinstance(await receivers.post(f"{inside.url}/hook", {}, b"", 0.0), Failed)
