// One EventSource for all jobs, kept open through whatever happens to it.

const AGAIN = 2000; // ms; the gateway's own `retry:` rules while the browser reconnects by itself

export class Stream {
  #source = null;
  #timer = 0;
  #asking = null;
  #jobs = [];

  /**
   * `told` has event(job, name, seq, state), lost(jobs) for those nobody knows, and connection(state, words), where state
   * is idle, connecting, live, reconnecting, ended or refused.
   */
  constructor(base, told) {
    this.base = base;
    this.told = told;
  }

  /** Follow these jobs, each from after its `seq`, and no others. */
  open(jobs) {
    this.close();
    this.#jobs = jobs;
    if (jobs.length === 0) return;
    this.told.connection("connecting");
    const source = new EventSource(this.#url());
    this.#source = source;
    source.addEventListener("open", () => this.told.connection("live"));
    for (const name of ["progress", "completed", "failed"]) source.addEventListener(name, (event) => this.#take(event));
    source.addEventListener("gone", (event) => {
      const { jobId } = JSON.parse(event.data);
      this.told.lost(jobs.filter((job) => job.id === jobId));
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) this.#ask();
      else this.told.connection("reconnecting");
    });
  }

  close() {
    this.#source?.close();
    this.#source = null;
    this.#asking?.abort();
    clearTimeout(this.#timer);
  }

  /** The network is back: do not wait for the browser's next try. */
  reopen() {
    if (this.#source !== null) this.open(this.#jobs.filter((job) => !job.ended));
  }

  #url() {
    // The id of an event of several jobs is their positions in the order of the query.
    const seen = this.#jobs.some((job) => job.seq > 0) ? `&lastEventId=${this.#jobs.map((job) => job.seq).join(",")}` : "";
    return `${this.base}events?${this.#jobs.map((job) => `job=${job.id}`).join("&")}${seen}`;
  }

  #take(event) {
    const state = JSON.parse(event.data);
    const place = this.#jobs.findIndex((job) => job.id === state.jobId);
    if (place === -1) return;
    this.told.event(this.#jobs[place], event.type, Number(event.lastEventId.split(",")[place]), state);
  }

  /** EventSource gave up and does not say why: the same request without a stream does. */
  async #ask() {
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    let wait = AGAIN;
    try {
      const answer = await fetch(this.#url(), { method: "HEAD", signal });
      if (answer.status === 404) return this.told.lost(this.#jobs);
      if (answer.status === 204) return this.told.connection("ended");
      if (answer.status === 400) return this.told.connection("refused", "The gateway does not take these ids");
      if (answer.status !== 200) {
        wait = Math.max(Number(answer.headers.get("Retry-After")) * 1000, AGAIN);
        this.told.connection("reconnecting", answer.status === 503 ? "Busy, trying again" : undefined);
      }
    } catch {
      if (signal.aborted) return;
      this.told.connection("reconnecting");
    }
    if (!signal.aborted) this.#timer = setTimeout(() => this.open(this.#jobs.filter((job) => !job.ended)), wait);
  }
}
