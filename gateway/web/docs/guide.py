"""The guide at the head of the page at /docs: a quick start, other operations, the verification of callbacks, and a
table of SSE clients.

Tests run the examples; the README has most of them too.
"""

from __future__ import annotations

from gateway.web.docs.markup import Html, Section, article, code, element, join, paragraphs, prose, section, table

_WRITTEN = "http://127.0.0.1:8000"
"""The gateway's URL in the examples, as they are written here and in the README."""

COPY = {
    "curl": """\
curl -i -X POST http://127.0.0.1:8000/v1.0/me/drive/items/$ITEM/copy \\
  -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\
  -d '{"parentReference":{"driveId":"'$DRIVE'","id":"'$FOLDER'"},"name":"Copy of report.docx"}'""",
    "JavaScript": """\
const response = await fetch(`http://127.0.0.1:8000/v1.0/me/drive/items/${item}/copy`, {
  method: "POST",
  headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json", "Idempotency-Key": key },
  body: JSON.stringify({ parentReference: { driveId: drive, id: folder }, name: "Copy of report.docx" }),
});
const job = await response.json();
if (!response.ok) throw new Error(job.error.message);""",
    "Python": """\
response = httpx.post(
    f"http://127.0.0.1:8000/v1.0/me/drive/items/{item}/copy",
    headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
    json={"parentReference": {"driveId": drive, "id": folder}, "name": "Copy of report.docx"},
)
job = response.raise_for_status().json()""",
}
"""By language, how a copy is started. Given are the token, the ids of item, drive and folder, and a key."""

SDKS = """\
provider = AzureIdentityAuthenticationProvider(credential, scopes=[SCOPE], allowed_hosts=[HOST])  # msgraph-sdk, Python
adapter = GraphRequestAdapter(provider); adapter.base_url = f"{G}/v1.0"
const client = Client.init({ baseUrl: G, customHosts: new Set([HOST]), authProvider }); // JavaScript
MSGraphProtocol._protocol_url = f"{G}/"  # O365, before the Account is made"""
"""How SDKs are pointed at the gateway. Given are its URL, its host, and the scope of Graph."""

FOLLOW = {
    "curl": "curl -N $JOB/events",
    "JavaScript": """\
const events = new EventSource(job.events);
events.addEventListener("progress", e => bar.value = JSON.parse(e.data).percentageComplete);
for (const end of ["completed", "failed"]) """
    """events.addEventListener(end, e => { events.close(); done(JSON.parse(e.data)); });""",
    "JavaScript, with follow.js": """\
const { follow } = await import("http://127.0.0.1:8000/follow.js");
follow(job.events, { progress: state => bar.value = state.percentageComplete, completed: done, failed: done });""",
    "Python": """\
with httpx.Client(timeout=None) as client, connect_sse(client, "GET", job["events"]) as source:
    for event in source.iter_sse():
        if event.data: print(event.event, event.json()["percentageComplete"])  # httpx-sse yields `retry:` too""",
}
"""By language, how a job is followed to its end."""

CALLBACK = {
    "shell": "SECRET=whsec_$(openssl rand -base64 32)",
    "curl": """\
curl -i -X POST http://127.0.0.1:8000/v1.0/me/drive/items/$ITEM/copy \\
  -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -H "Idempotency-Key: $KEY" \\
  -H "Gateway-Callback-Url: https://example.com/copies" -H "Gateway-Callback-Secret: $SECRET" \\
  -d '{"parentReference":{"driveId":"'$DRIVE'","id":"'$FOLDER'"},"name":"Copy of report.docx"}'""",
}
"""A secret for a receiver, and a copy whose end is sent there."""

VERIFY = {
    "Python": """\
message = standardwebhooks.Webhook(secret).verify(body, headers)  # raises when it is forged
if headers["webhook-id"] not in seen:  # at least once: drop what comes again
    print(message["type"], message["data"]["status"]); seen.add(headers["webhook-id"])""",
    "JavaScript": """\
const message = new Webhook(secret).verify(body, headers); // throws when it is forged
if (!seen.has(headers["webhook-id"])) // at least once: drop what comes again
  { console.log(message.type, message.data.status); seen.add(headers["webhook-id"]); }""",
}
"""By language, a receiver. Given are the secret, the raw body, the headers in small letters, and a set."""

OPERATION = {
    "curl": """\
curl -i -X POST http://127.0.0.1:8000/v1.0/me/onenote/notebooks/$NOTEBOOK/copyNotebook \\
  -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"renameAs":"Notebook 2"}'""",
    "JavaScript": """\
const response = await fetch(`http://127.0.0.1:8000/v1.0/me/onenote/notebooks/${notebook}/copyNotebook`, {
  method: "POST",
  headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json", "Idempotency-Key": key },
  body: JSON.stringify({ renameAs: "Notebook 2" }),
});
const job = await response.json();
if (!response.ok) throw new Error(job.error.message);""",
    "Python": """\
response = httpx.post(
    f"http://127.0.0.1:8000/v1.0/me/onenote/notebooks/{notebook}/copyNotebook",
    headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
    json={"renameAs": "Notebook 2"},
)
job = response.raise_for_status().json()""",
}
"""By language, how another operation is started. Given are the token, a notebook's id, and a key."""

HAND_IN = {
    "curl": """\
curl -i -X PUT $JOB/token -H "Authorization: Bearer $JOB_KEY" \\
  -H "Content-Type: application/json" -d '{"token":"'$TOKEN'"}'""",
    "JavaScript": """\
events.addEventListener("progress", async e => {
  if (JSON.parse(e.data).trouble?.code !== "tokenRequired") return;
  await fetch(new URL("token", job.events), {
    method: "PUT",
    headers: { Authorization: `Bearer ${job.jobKey}`, "Content-Type": "application/json" },
    body: JSON.stringify({ token: await freshToken() }),
  });
});""",
    "Python": """\
with httpx.Client(timeout=None) as client, connect_sse(client, "GET", job["events"]) as source:
    for event in source.iter_sse():
        state = event.json() if event.data else {}
        if state.get("trouble", {}).get("code") == "tokenRequired":
            own = {"Authorization": f"Bearer {job['jobKey']}"}
            httpx.put(f"{response.headers['Location']}/token", headers=own, json={"token": fresh_token()})""",
}
"""By language, how a job gets a fresh token. Given are the job and its events, and what gets a token."""

OPERATE = """\
(umask 077; printf "export GATEWAY_%s_KEY=%s\\n" OPERATOR $(openssl rand -hex 16) SECRET $(openssl rand -hex 16) > keys)
export GATEWAY_STORE_URL=postgresql://user:password@host/database GATEWAY_PUBLIC_URL=https://gateway.example.com
. ./keys && gateway serve --workers 2"""

LIST = '. ./keys && curl http://127.0.0.1:8000/jobs -H "Authorization: Bearer $GATEWAY_OPERATOR_KEY"'

_HEADER, _QUERY = "`Last-Event-ID`", "`?lastEventId=`"
_STOPS, _CLOSE = "stops by itself", "close it at the terminal event"
_LOOP = "open it in a loop until the terminal event"
CLIENTS = {
    "EventSource": (_HEADER, "none", _STOPS),
    "eventsource": (_HEADER, "`last-event-id`", _STOPS),
    "eventsource-client": (_HEADER, "`last-event-id`", _STOPS),
    "event-source-polyfill": (_QUERY, "none", _STOPS),
    "reconnecting-eventsource": (f"{_HEADER}, then {_QUERY}", "none", _CLOSE),
    "fetch-event-source": (_HEADER, "`last-event-id`", _CLOSE),
    "fetch-event-source without onclose": (_HEADER, "`last-event-id`", _LOOP),
    "sse.js": (_HEADER, "`last-event-id`", _CLOSE),
    "sse.js without autoReconnect": ("nothing", "none", _LOOP),
    "@sentool/fetch-event-source": ("nothing", "`content-type`", _LOOP),
    "eventsource-parser": ("nothing", "none", _LOOP),
}
"""By client: how it resumes, the headers that its preflights ask for, and what to do at the end."""


def guide(base: str) -> list[Section]:
    """The sections, for a gateway whose public URL is `base`, without a final slash."""
    return [_quick_start(base), _other_operations(base), _verification(base), _clients()]


def _quick_start(base: str) -> Section:
    paths = {
        "front-end": ("Front end", _front_end(base)),
        "back-end": ("Back end", _back_end(base)),
        "operator": ("Operator", _operator(base)),
    }
    entries = [(anchor, join(title)) for anchor, (title, _) in paths.items()]
    articles = [article(anchor, title, *parts) for anchor, (title, parts) in paths.items()]
    description = (
        "Three paths of five minutes each. Given are the user's token for Graph, the ids of the item, of the drive and "
        "the folder that it is copied to, and a key that you choose for this copy: a request repeated with the same "
        "`Idempotency-Key` starts nothing twice."
    )
    return section("quick-start", "Quick start", description, entries, *articles)


def _front_end(base: str) -> list[Html]:
    return [
        paragraphs(
            "Start the gateway with `GATEWAY_CORS_ORIGINS=https://app.example.com`, which allows your page's origin. "
            "Start the copy:"
        ),
        *_examples(COPY, base, "JavaScript", "curl"),
        paragraphs(
            "Follow it. EventSource reconnects by itself and misses no event. In a shell, `JOB` is the `Location` "
            "of the response."
        ),
        *_examples(FOLLOW, base, "JavaScript", "curl"),
        paragraphs(
            "A proxy that answers with an error while the gateway is away ends EventSource for ever. `follow.js` opens "
            "a new one, resumes, and stops at the end."
        ),
        *_examples(FOLLOW, base, "JavaScript, with follow.js"),
    ]


def _back_end(base: str) -> list[Html]:
    return [
        paragraphs(
            "Send Graph's own requests here. In Python, after `pip install httpx httpx-sse` and `import httpx`:"
        ),
        *_examples(COPY, base, "Python"),
        paragraphs(
            "Follow it, after `from httpx_sse import connect_sse`. Without `timeout=None`, httpx gives up before the "
            "next heartbeat."
        ),
        *_examples(FOLLOW, base, "Python"),
        paragraphs(
            "Or do not wait: name a callback (webhook). It needs a public address and https; for experiments "
            "`GATEWAY_CALLBACK_ALLOW=127.0.0.0/8` allows one on the gateway's own machine, by http too. Make one "
            "secret for your receiver, and send it with each copy. The receiver can then verify a message that comes "
            "before you have read the response."
        ),
        *_examples(CALLBACK, base, "shell", "curl"),
        element("p", "The receiver ", element("a", "verifies each message", href="#verification"), "."),
        paragraphs(
            "An SDK needs another base URL. SDKs send a token only to hosts that they are told of, and some ask for it "
            "in that host's name unless told the scope. `G` is the gateway's URL, `HOST` its host, `SCOPE` is "
            "`https://graph.microsoft.com/.default`."
        ),
        _example("SDKs", SDKS, base),
    ]


def _operator(base: str) -> list[Html]:
    return [
        paragraphs(
            "Make two keys, which stay in a file of yours. Name the database and the URL that callers use. Files for "
            "proxies, systemd, containers, alerts and backups are in `deploy/` of the checkout."
        ),
        _example("shell", OPERATE, base),
        element(
            "p", "The operator key lists all jobs, here and on ", element("a", "the page", href="./#operator"), "."
        ),
        _example("shell", LIST, base),
    ]


def _other_operations(base: str) -> Section:
    description = (
        "Copies are one long-running operation of many. Moves, archives and labels of items are started and followed "
        "as copies are. So are the operations of teams, channels, content types, workbooks, notebooks, communities and "
        "external connections, whose status Graph shows only to a token. Send Graph's own request. If Graph answers "
        "`202` and names a status, the response is a job's; what Graph does at once comes back as it is."
    )
    return section(
        "other-operations",
        "Other operations",
        description,
        [],
        *_examples(OPERATION, base, "JavaScript", "Python", "curl"),
        paragraphs(
            "Follow the job as that of a copy. The gateway asks for the status under the token of the request, which "
            "it keeps in memory, for this job alone. When that token has ended or the gateway was restarted, the job "
            "has not failed: it waits, and its `trouble.code` is `tokenRequired`. Hand in a fresh token under the "
            "`jobKey` of the response. In a shell, `JOB` is its `Location`, and `JOB_KEY` its `jobKey`."
        ),
        *_examples(HAND_IN, base, "JavaScript", "Python", "curl"),
        paragraphs(
            "The answer `204` does not say whether Graph takes the token. If it refuses that one too, the job stays as "
            "it is, and no event comes: look at its state after a minute. A token of somebody who may not read the "
            "status (`403`, `404`) ends the job as lost.\n\n"
            "In a terminal, `gateway start POST teams/ID/clone --token-file FILE` starts any of these operations and "
            "follows it; while the job waits, a fresh token that is written to the file is handed in. "
            "`gateway token JOB` hands in the value of `GRAPH_TOKEN`. An operator can give the gateway an identity of "
            "its own to ask with (`GATEWAY_POLL_IDENTITY`); then nobody has to hand in a token.",
        ),
    )


def _verification(base: str) -> Section:
    description = (
        "Each message is signed as Standard Webhooks say, and their libraries verify it, in Python and JavaScript "
        "`standardwebhooks`. By hand: join `webhook-id`, "
        "`webhook-timestamp` and the raw body by dots. Make the HMAC-SHA256 of that; its key is the secret behind "
        "`whsec_`, decoded from base64. One of the signatures in `webhook-signature`, which are separated by spaces, "
        "must be `v1,` and that HMAC in base64. Compare in constant time, and refuse a timestamp that is more than "
        "five minutes off."
    )
    examples = _examples(VERIFY, base, "Python", "JavaScript")
    return section("verification", "Verify a callback", description, [], *examples)


def _clients() -> Section:
    description = (
        "Every client of Server-Sent Events can read the streams. The clients differ in how they resume after a break, "
        "in what a browser asks for in a preflight, and at the end. The gateway allows what the preflights of the "
        "origins in `GATEWAY_CORS_ORIGINS` ask for. After the terminal event it answers `204`, which tells EventSource "
        "to stop. In a loop, send the last id as `Last-Event-ID`. Here `fetch-event-source` has an `onclose` that "
        "throws, and `sse.js` has `autoReconnect`."
    )
    rows = [(element("code", name), *map(prose, needs)) for name, needs in CLIENTS.items()]
    heads = ("client", "resumes with", "preflight asks for", "at the end")
    return section("clients", "SSE clients", description, [], table(heads, rows))


def _examples(by_language: dict[str, str], base: str, *languages: str) -> list[Html]:
    return [_example(language, by_language[language], base) for language in languages]


def _example(language: str, text: str, base: str) -> Html:
    return element("figure", element("figcaption", language), code(text.replace(_WRITTEN, base)))
