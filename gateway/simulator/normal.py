"""Copies that succeed, in each observed dialect, and copies that fail as Graph documents it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.simulator.answers import TEXT, Answer, GraphError, document
from gateway.simulator.drives import LIBRARY
from gateway.simulator.scenario import Scenario, accepted_at, completed, ending, plain, running

if TYPE_CHECKING:
    from gateway.simulator.scenario import Copy, Moment

OPERATION_NOT_FOUND = {"error": {"code": "operationNotFound", "message": "The operation does not exist."}}
NAME_EXISTS = {"code": "nameAlreadyExists", "message": "Name already exists"}


def _item(copy: Copy) -> dict[str, Any]:
    return {"id": copy.resource_id, "name": copy.name, "parentReference": {"driveId": copy.drive_id}}


def _to_item(moment: Moment) -> Answer:
    return Answer(303, b"See Other", TEXT, {"Location": moment.copy.item_url})


def _rich(moment: Moment) -> Answer:
    copy = moment.copy
    state = {
        # The reference prints the scheme twice.
        "@odata.context": "https://https://contoso.sharepoint.com/sites/other/_api/v2.1/$metadata#oneDrive.asyncStatus",
        "id": copy.operation,
        "createdDateTime": "0001-01-01T00:00:00Z",
        "lastActionDateTime": "0001-01-01T00:00:00Z",
        "percentComplete": moment.percent,
        "percentageComplete": moment.percent,
        "status": "inProgress",
        "statusDescription": f"{round(moment.part * 40)}/40; {round(moment.part * 12019)} bytes",
    }
    if moment.done:
        location = (
            f"https://contoso.sharepoint.com/sites/other/_api/v2.0/drives/{copy.drive_id}/items/{copy.resource_id}"
        )
        state |= {"status": "completed", "resourceId": copy.resource_id, "resourceLocation": location}
    return document(200 if moment.done else 202, state)


def _phases(moment: Moment) -> Answer:
    if moment.done:
        return completed(moment)
    if moment.part < 0.2:
        return running(moment, status="notStarted", percentageComplete=0.0)
    return running(moment, status="waiting" if 0.4 <= moment.part < 0.6 else "inProgress")


def _all_words(moment: Moment) -> Answer:
    words = ("notStarted", "inProgress", "waiting", "updating", "deletePending", "cancelPending")
    return completed(moment) if moment.done else running(moment, status=words[int(moment.part * len(words))])


def _finished_item(copy: Copy) -> Answer:
    path = f"/_api/v2.0/drives/{copy.drive_id}/items/{copy.resource_id}?force303=1&tempauth={copy.token}"
    return accepted_at(copy.origins.monitor + path)


def _item_303(moment: Moment) -> Answer:
    return document(303, _item(moment.copy), {"Location": moment.copy.item_url})


def _teams(copy: Copy) -> Answer:
    return accepted_at(f"/teams('{copy.source_id}')/operations('{copy.operation}')")


def _rich_operation(copy: Copy) -> Answer:
    return accepted_at(f"{copy.origins.graph}/{copy.version}/sites/contoso.sharepoint.com/operations/{copy.operation}")


def _succeeding(moment: Moment) -> Answer:
    state = {"id": moment.copy.operation, "status": "running", "percentageComplete": round(moment.percent)}
    if moment.done:
        state |= {"status": "succeeded", "resourceId": moment.copy.resource_id}
    return document(200, state)


def _failed(status: int, state: dict[str, Any]) -> Any:
    return ending(lambda moment: document(status, {"id": moment.copy.operation, "status": "failed"} | state))


failed_by_name = _failed(200, {"error": NAME_EXISTS})


def _failed_details(moment: Moment) -> Answer:
    details = [
        {"code": "nameAlreadyExists", "message": "Name already exists", "target": moment.copy.source_id},
        {"code": "accessDenied", "message": "Access denied"},
    ]
    error = {"message": "Multiple errors were encountered.", "details": details}
    return document(200, {"id": moment.copy.operation, "status": "failed", "error": error})


def _cancelled(moment: Moment) -> Answer:
    if moment.done:
        return running(moment, status="cancelled", percentageComplete=60.0)
    return running(moment, status="cancelPending" if moment.part >= 0.6 else "inProgress")


def _failed_late(moment: Moment) -> Answer:
    if not moment.done:
        return running(moment, percentageComplete=round(moment.percent * 0.56, 1))
    error = {"code": "generalException", "message": "blob store timeout"}
    return document(200, {"status": "failed", "percentageComplete": 56.0, "error": error})


DENIED = {"errorCode": "AccessDenied_NotEnoughRights", "percentageComplete": 0, "operation": "ItemCopy"}

NORMAL = (
    Scenario("copy", "The document's own exchange: 202 while it runs, 202 with the resourceId at the end."),
    Scenario("completed-200", "Ends with 200.", ending(lambda m: completed(m, 200))),
    Scenario(
        "completed-303", "Ends with 303, the state in the body, no Location.", ending(lambda m: completed(m, 303))
    ),
    Scenario("completed-303-item", "Ends with 303 and a Location that is the new item, no state.", ending(_to_item)),
    Scenario("rich", "SharePoint's long form: both percentages, year 1 dates, resourceLocation.", _rich),
    Scenario("phases", "notStarted, inProgress, waiting, inProgress, completed.", _phases),
    Scenario("all-words", "Every status of a running copy in turn, then completed.", _all_words),
    Scenario(
        "other-drive",
        "Without a driveId the copy is created in the library: /me/drive does not contain it.",
        drive=LIBRARY,
    ),
    Scenario(
        "conflict",
        "A folder under Graph's rules for name conflicts: fail, rename; only the query counts.",
        strict=True,
    ),
    Scenario("conflict-file", "The same for a file, which also allows replace.", strict=True, file=True),
    Scenario(
        "location-item",
        "Location is the finished item itself; its GET is 200 and has no status.",
        lambda m: document(200, _item(m.copy)),
        _finished_item,
        at_once=True,
    ),
    Scenario(
        "location-item-303",
        "The same, and its GET is a 303 to the item.",
        _item_303,
        _finished_item,
        at_once=True,
    ),
    Scenario(
        "teams",
        "Teams' dialect: a relative Location that requires a token.",
        _succeeding,
        _teams,
        bearer=True,
    ),
    Scenario(
        "rich-operation",
        "SharePoint's rich operation, below /v1.0, requires a token.",
        _succeeding,
        _rich_operation,
        bearer=True,
    ),
    Scenario("succeeded", "The statuses running and succeeded, which similar operations use.", _succeeding),
    Scenario(
        "onenote",
        "202 with Operation-Location and no Location.",
        start=lambda c: Answer(202, content_type=TEXT, headers={"Operation-Location": c.monitor_url}),
    ),
    Scenario(
        "sync-200",
        "200 with the item: the copy was made synchronously.",
        start=lambda c: document(200, _item(c)),
        at_once=True,
    ),
    Scenario(
        "sync-201",
        "201 with the item and its Location.",
        start=lambda c: document(201, _item(c), {"Location": c.item_url}),
        at_once=True,
    ),
    Scenario("failed", "200, failed, nameAlreadyExists.", failed_by_name, lands=False),
    Scenario("failed-202", "The same with 202.", _failed(202, {"error": NAME_EXISTS}), lands=False),
    Scenario(
        "failed-details",
        "Failed for several reasons, in details; the error has no code.",
        ending(_failed_details),
        lands=False,
    ),
    Scenario(
        "failed-500",
        "HTTP 500 with a body that has status failed and an errorCode.",
        _failed(500, DENIED),
        lands=False,
    ),
    Scenario(
        "operation-not-found",
        "500 operationNotFound instead of the final status.",
        ending(lambda _: document(500, OPERATION_NOT_FOUND)),
        lands=False,
    ),
    Scenario(
        "delete-failed",
        "Ends as deleteFailed.",
        ending(lambda m: running(m, status="deleteFailed")),
        lands=False,
    ),
    Scenario("cancelled", "cancelPending, then cancelled.", _cancelled, lands=False),
    Scenario("failed-late", "Fails at 56 %.", _failed_late, lands=False),
    Scenario("failed-bare", "Failed without an error.", _failed(200, {}), lands=False),
    Scenario(
        "completed-then-running",
        "Reports completed once and inProgress afterwards.",
        lambda m: running(m, percentageComplete=60.0) if m.end_seen else plain(m),
    ),
    Scenario(
        "no-resource",
        "Completed without a resourceId.",
        ending(lambda _: document(202, {"percentageComplete": 100.0, "status": "completed"})),
    ),
    Scenario("read-lag", "Completed, but the new item is 404 on the first three reads.", hidden=3),
    Scenario("wrong-parent", "The copy is created beside its source, whatever target was requested.", strays=True),
    Scenario("early-completed", "Completed while the new folder is still filling.", grows=True),
)

LOGIN = 'Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize"'
_THROTTLED = "The request has been throttled"


def _refused(
    name: str, summary: str, status: int, code: str, message: str, *inner: str, headers: dict[str, str] | None = None
) -> Scenario:
    refusal = GraphError(status, code, message, inner=inner, headers=headers)
    return Scenario(name, summary, refusal=refusal, lands=False)


REFUSALS = (
    _refused("rejected-root", "400: the root cannot be copied.", 400, "invalidRequest", "Cannot copy the root folder."),
    _refused(
        "rejected-children",
        "400: childrenOnly on a file.",
        400,
        "invalidRequest",
        "childrenOnly option is not valid for file items.",
    ),
    _refused(
        "rejected-name",
        "400: childrenOnly with a name.",
        400,
        "invalidRequest",
        "Cannot use name parameter alongside childrenOnly.",
    ),
    _refused(
        "rejected-400", "400 with nested codes.", 400, "invalidRequest", "ObjectHandle is Invalid", "invalidResourceId"
    ),
    _refused(
        "rejected-401",
        "401, the token has expired.",
        401,
        "InvalidAuthenticationToken",
        "Lifetime validation failed, the token is expired.",
        headers={"WWW-Authenticate": LOGIN},
    ),
    _refused("rejected-403", "403 accessDenied.", 403, "accessDenied", "Access denied"),
    _refused(
        "rejected-404", "404 itemNotFound.", 404, "itemNotFound", "The resource could not be found.", "itemDoesNotExist"
    ),
    _refused(
        "rejected-409",
        "409 nameAlreadyExists.",
        409,
        "nameAlreadyExists",
        "The specified item name already exists.",
    ),
    _refused("rejected-423", "423, the item is locked.", 423, "resourceLocked", "The resource is locked."),
    _refused(
        "rejected-429",
        "429 with Retry-After and two inner codes.",
        429,
        "activityLimitReached",
        _THROTTLED,
        "throttledRequest",
        "quota",
        headers={"Retry-After": "41"},
    ),
    _refused(
        "rejected-500", "500, and nothing was started.", 500, "generalException", "General exception while processing"
    ),
    _refused("rejected-501", "501 notSupported.", 501, "notSupported", "Operation not supported"),
    _refused(
        "rejected-503",
        "503 with Retry-After.",
        503,
        "serviceNotAvailable",
        "The service is unavailable.",
        headers={"Retry-After": "2"},
    ),
    _refused(
        "rejected-504",
        "504, and nothing was started.",
        504,
        "generalException",
        "The gateway timed out.",
    ),
    _refused("rejected-507", "507 quotaLimitReached.", 507, "quotaLimitReached", "Insufficient Space Available"),
    Scenario(
        "rejected-huge",
        "400 with a body of 8 MiB.",
        lands=False,
        start=lambda _: Answer(400, b'{"error":{"code":"invalidRequest","message":"' + b"x" * 2**23 + b'"}}'),
    ),
    Scenario(
        "rejected-html",
        "502 with HTML instead of an error in Graph's shape.",
        lands=False,
        start=lambda _: Answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", "text/html"),
    ),
)
