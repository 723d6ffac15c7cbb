// One EventSource for all jobs, reopened after every failure.

const RETRY_DELAY = 2000; // ms; the gateway's own `retry:` applies while the browser reconnects by itself

export class Stream {
  #source = null;
  #timer = 0;
  #asking = null;
  #jobs = [];

  /**
   * `listener` has event(job, name, seq, state), lost(jobs) for unknown jobs, and connection(state, words), where state
   * is idle, connecting, live, reconnecting, ended or refused.
   */
  constructor(base, listener) {
    this.base = base;
    this.listener = listener;
  }

  /** Follow exactly these jobs, each after its `seq`. */
  open(jobs) {
    this.close();
    this.#jobs = jobs;
    if (jobs.length === 0) return;
    this.listener.connection("connecting");
    const source = new EventSource(this.#url());
    this.#source = source;
    source.addEventListener("open", () => this.listener.connection("live"));
    for (const name of ["progress", "completed", "failed"]) source.addEventListener(name, (event) => this.#take(event));
    source.addEventListener("gone", (event) => {
      const { jobId } = JSON.parse(event.data);
      this.listener.lost(jobs.filter((job) => job.id === jobId));
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) this.#ask();
      else this.listener.connection("reconnecting");
    });
  }

  close() {
    this.#source?.close();
    this.#source = null;
    this.#asking?.abort();
    clearTimeout(this.#timer);
  }

  /** The network is back: reconnect now, before the browser's next attempt. */
  reopen() {
    if (this.#source !== null) this.open(this.#jobs.filter((job) => !job.ended));
  }

  #url() {
    // The event id of several jobs lists their positions in the order of the query.
    const seen = this.#jobs.some((job) => job.seq > 0) ? `&lastEventId=${this.#jobs.map((job) => job.seq).join(",")}` : "";
    return `${this.base}events?${this.#jobs.map((job) => `job=${job.id}`).join("&")}${seen}`;
  }

  #take(event) {
    const state = JSON.parse(event.data);
    const place = this.#jobs.findIndex((job) => job.id === state.jobId);
    if (place === -1) return;
    this.listener.event(this.#jobs[place], event.type, Number(event.lastEventId.split(",")[place]), state);
  }

  /** EventSource gave up and does not tell the status: a HEAD request to the same URL does. */
  async #ask() {
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    let wait = RETRY_DELAY;
    try {
      const answer = await fetch(this.#url(), { method: "HEAD", signal });
      if (answer.status === 404) return this.listener.lost(this.#jobs);
      if (answer.status === 204) return this.listener.connection("ended");
      if (answer.status === 400) return this.listener.connection("refused", "The gateway refuses these ids");
      if (answer.status !== 200) {
        wait = Math.max(Number(answer.headers.get("Retry-After")) * 1000, RETRY_DELAY);
        this.listener.connection("reconnecting", answer.status === 503 ? "Busy, trying again" : undefined);
      }
    } catch {
      if (signal.aborted) return;
      this.listener.connection("reconnecting");
    }
    if (!signal.aborted) this.#timer = setTimeout(() => this.open(this.#jobs.filter((job) => !job.ended)), wait);
  }
}
