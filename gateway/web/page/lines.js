// Code with which a developer does the same as the page.

/** The gateway's URL, with a slash at the end: the page is at its root. */
export const BASE = new URL(".", location.href).href;

export const jobUrl = (id) => `${BASE}jobs/${id}`;
export const eventsUrl = (id) => `${jobUrl(id)}/events`;

export function curl(id) {
  return `curl -N ${quoted(eventsUrl(id))}`;
}

/** The README's three lines, with this job's URL. */
export function browser(id) {
  return [
    `const events = new EventSource(${JSON.stringify(eventsUrl(id))});`,
    `events.addEventListener("progress", e => bar.value = JSON.parse(e.data).percentageComplete);`,
    `for (const end of ["completed", "failed"]) events.addEventListener(end, e => { events.close(); done(JSON.parse(e.data)); });`,
  ].join("\n");
}

export function python(id) {
  return [
    "import httpx, httpx_sse  # pip install httpx-sse",
    "",
    "with httpx.Client(timeout=60) as client:",
    `    with httpx_sse.connect_sse(client, "GET", ${JSON.stringify(eventsUrl(id))}) as source:`,
    "        for event in source.iter_sse():",
    "            print(event.id, event.event, event.data)",
  ].join("\n");
}

export function read(resource) {
  return `curl ${quoted(BASE + resource.slice(1))} -H "Authorization: Bearer $GRAPH_TOKEN"`;
}

export function firstCopy() {
  return [
    `curl -i -X POST ${quoted(
      `${BASE}v1.0/me/drive/items/01MOWKYVLARGEFOLDER1/copy?@microsoft.graph.conflictBehavior=rename`,
    )} \\`,
    `  -H 'Authorization: Bearer demo' -H 'Content-Type: application/json' \\`,
    `  -d '{"parentReference":{"path":"/drive/root:/Documents"},"name":"My copy"}'`,
  ].join("\n");
}

/** Quote any string for a POSIX shell. */
function quoted(text) {
  return /^[A-Za-z0-9:/._-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
