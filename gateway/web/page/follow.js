// Follows jobs to their end. EventSource gives up for ever when a proxy answers with an error while the gateway is away;
// this opens a new one, which resumes after the last event.

const DELAY = 2000; // ms until the next attempt
const SETTLED = 500; // ms: a stream that ends sooner was only told to come back
const TYPE = "text/event-stream";
const ENDS = { 204: "ended", 400: "refused", 404: "gone" }; // by the status of a stream that cannot be opened

/**
 * `url` is the `events` of a 202, or the gateway's `/events?job=…&job=…`.
 *
 * `progress`, `completed` and `failed` get a job's state and the event. `gone` gets `{jobId}`: one of several jobs that the
 * gateway does not know. `connection` gets each change: connecting, live, reconnecting, busy (too many streams, it tries
 * again); and last: ended, gone (none of the jobs is known) or refused (the URL is not a stream's).
 *
 * Returns a function that stops it. Throws a TypeError if `url` is not the URL of anything over http or https.
 */
export function follow(url, { connection, ...handlers } = {}) {
  const at = parsed(url);
  const running = new Set(at.searchParams.getAll("job")); // empty for the stream of one job
  const ending = new AbortController();
  let source, timer, said;

  function say(word) {
    if (word !== said) connection?.((said = word));
  }

  function stop() {
    ending.abort();
    source.close();
    clearTimeout(timer);
  }

  function end(word) {
    stop();
    say(word);
  }

  function open() {
    source = new EventSource(at);
    source.onopen = () => {
      timer = setTimeout(say, SETTLED, "live");
    };
    source.onerror = () => {
      clearTimeout(timer);
      if (source.readyState === EventSource.CLOSED) ask();
      else say("reconnecting");
    };
    for (const name of ["progress", "completed", "failed", "gone"]) source.addEventListener(name, take);
  }

  function take(event) {
    at.searchParams.set("lastEventId", event.lastEventId);
    const state = JSON.parse(event.data);
    if (event.type !== "progress") running.delete(state.jobId);
    handlers[event.type]?.(state, event);
    if (event.type !== "progress" && running.size === 0 && !ending.signal.aborted) end("ended");
  }

  /** EventSource does not tell the status; a HEAD request to the same URL does. */
  async function ask() {
    let word = "reconnecting";
    let wait = DELAY;
    try {
      const headers = { Accept: TYPE }; // as for the stream: a job's own URL has two kinds of answers
      const answer = await fetch(at, { method: "HEAD", headers, signal: ending.signal });
      if (answer.headers.has("request-id")) { // otherwise a proxy's own, which says nothing about the jobs
        if (answer.status in ENDS) return end(ENDS[answer.status]);
        if (answer.ok && !answer.headers.get("Content-Type")?.startsWith(TYPE)) return end("refused");
        if (answer.status === 503) word = "busy";
        wait = Math.max(answer.headers.get("Retry-After") * 1000 || 0, DELAY);
      }
    } catch {
      if (ending.signal.aborted) return;
    }
    if (ending.signal.aborted) return;
    timer = setTimeout(open, wait * (1 + Math.random() / 2)); // not all at once
    say(word); // last: `connection` may throw, or stop it
  }

  say("connecting");
  open();
  return stop;
}

/** The error does not repeat the URL, whose job id is a secret. */
function parsed(url) {
  if (!url) throw new TypeError("follow() takes the URL of a stream, such as `events` of a 202. None was given.");
  const base = globalThis.location?.href;
  const at = URL.canParse(url, base) ? new URL(url, base) : null;
  if (!/^https?:$/.test(at?.protocol)) {
    throw new TypeError("The URL is invalid: follow() takes one over http or https, or one relative to the page.");
  }
  return at;
}
