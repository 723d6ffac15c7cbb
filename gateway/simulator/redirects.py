"""Monitors that redirect: to pages for people, to other hosts, to another place of the same monitor, in a ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.simulator.answers import HTML, TEXT, Answer, document
from gateway.simulator.scenario import Scenario, completed, ending, plain, running
from gateway.simulator.troubles import PAGE, troubled

if TYPE_CHECKING:
    from gateway.simulator.scenario import Moment, Monitor

FOLLOWED = 3  # redirects in a row that a client follows


def _foreign(moment: Moment) -> Answer:
    return Answer(302, b"", TEXT, {"Location": f"{moment.copy.origins.foreign}/_foreign/{moment.copy.operation}"})


def _foreign_end(moment: Moment) -> Answer:
    copy = moment.copy
    location = f"{copy.origins.foreign}/_foreign/drives/{copy.drive_id}/items/{copy.resource_id}?tempauth={copy.token}"
    return Answer(303, b"", TEXT, {"Location": location})


def _foreign_running(moment: Moment) -> Answer:
    if moment.done:
        return completed(moment)
    return Answer(302, running(moment).body, headers={"Location": f"{moment.copy.origins.foreign}/_foreign/elsewhere"})


def _ends_at(path: str) -> Monitor:
    """Return a monitor that ends with a 303 to a path at Graph; {item} in it is the new item's id."""

    def end(moment: Moment) -> Answer:
        location = moment.copy.origins.graph + path.format(item=moment.copy.resource_id)
        return Answer(303, b"", TEXT, {"Location": location})

    return ending(end)


def _page(name: str, summary: str, location: str) -> Scenario:
    """Return a scenario whose monitor is now and then a 303 to a page; {foreign} is the other host."""

    def monitor(moment: Moment) -> Answer:
        target = location.format(foreign=moment.copy.origins.foreign, operation=moment.copy.operation)
        return Answer(303, PAGE, HTML, {"Location": target})

    return Scenario(name, summary, troubled(monitor), every=2)


def _moved(name: str, summary: str, *codes: int, base: str = "", last: Monitor = plain) -> Scenario:
    """Return a scenario whose monitor is behind redirects with these codes; {monitor} in `base` is its origin."""

    def monitor(moment: Moment) -> Answer:
        if moment.hop >= len(codes):
            return last(moment)
        place = base.format(monitor=moment.copy.monitor_origin) + moment.copy.at_hop(moment.hop + 1)
        return Answer(codes[moment.hop], b"", TEXT, {"Location": place})

    return Scenario(name, summary, monitor)


def _ring(moment: Moment) -> Answer:
    place = moment.copy.at_hop(1) if moment.hop == 0 else moment.copy.monitor_path
    return Answer(302, b"", TEXT, {"Location": moment.copy.monitor_origin + place})


REDIRECTS = (
    Scenario("redirect-foreign", "302 to another host, which refuses every token.", troubled(_foreign), every=2),
    Scenario("redirect-foreign-state", "302 to another host, with the state in the body.", _foreign_running),
    Scenario("redirect-foreign-item", "Ends with 303 to an item on another host.", ending(_foreign_end)),
    Scenario(
        "redirect-broken-item",
        "Ends with 303 to /drives('me')/items(''), which does not exist.",
        _ends_at("/v1.0/drives('me')/items('')"),
    ),
    Scenario(
        "redirect-me-item",
        "Ends with 303 to the item under /drives('me'), as personal accounts do.",
        _ends_at("/v1.0/drives('me')/items('{item}')"),
    ),
    Scenario("redirect-elsewhere", "Ends with 303 to what is no item.", _ends_at("/v1.0/me/drive/root")),
    _page("redirect-denied", "303 to AccessDenied.aspx.", "/_layouts/15/AccessDenied.aspx?Source=x"),
    _page("redirect-login", "303 to a login page.", "/_forms/default.aspx?ReturnUrl=%2f_layouts%2f15"),
    _page("redirect-throttle", "303 to Throttle.htm.", "/_layouts/15/Throttle.htm"),
    _page("redirect-foreign-page", "303 to another host.", "{foreign}/_foreign/{operation}"),
    _moved("moved-301", "301 to the monitor's new place on the same host.", 301, base="{monitor}"),
    _moved("moved-302", "302 to the monitor's new place, which is a path only.", 302),
    _moved("moved-307", "307 to the monitor's new place on the same host.", 307, base="{monitor}"),
    _moved("moved-308", "308 to the monitor's new place on the same host.", 308, base="{monitor}"),
    _moved("moved-thrice", f"{FOLLOWED} redirects to the monitor's new place.", 308, 302, 307, base="{monitor}"),
    _moved(
        "moved-303",
        "302 to the monitor's new place, which ends with 303 to the item.",
        302,
        last=_ends_at("/v1.0/me/drive/items/{item}"),
    ),
    _moved(
        "moved-failed",
        "302 to the monitor's new place, where the copy fails.",
        302,
        last=ending(lambda _: document(200, {"status": "failed", "errorCode": "accessDenied"})),
    ),
    _moved("moved-too-far", f"{FOLLOWED + 1} redirects, one more than are followed.", 302, 302, 302, 302),
    Scenario("moved-ring", "302 to another place, which redirects back.", _ring),
)
