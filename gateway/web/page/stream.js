// The one stream that all jobs of the page share.

import { follow } from "../follow.js";

export class Stream {
  #stop = null;
  #jobs = [];

  /** `listener` has event(job, name, seq, state), lost(jobs) for unknown jobs, and connection(word) as in follow.js. */
  constructor(base, listener) {
    this.base = base;
    this.listener = listener;
  }

  /** Follow exactly these jobs, each after its `seq`. */
  open(jobs) {
    this.close();
    this.#jobs = jobs;
    if (jobs.length === 0) return;
    // The event id of several jobs lists their positions in the order of the query.
    const seen = jobs.some((job) => job.seq > 0) ? `&lastEventId=${jobs.map((job) => job.seq).join(",")}` : "";
    const take = (state, event) => {
      const place = jobs.findIndex((job) => job.id === state.jobId);
      this.listener.event(jobs[place], event.type, Number(event.lastEventId.split(",")[place]), state);
    };
    this.#stop = follow(`${this.base}events?${jobs.map((job) => `job=${job.id}`).join("&")}${seen}`, {
      progress: take,
      completed: take,
      failed: take,
      gone: ({ jobId }) => this.listener.lost(jobs.filter((job) => job.id === jobId)),
      connection: (word) => (word === "gone" ? this.listener.lost(jobs) : this.listener.connection(word)),
    });
  }

  close() {
    this.#stop?.();
    this.#stop = null;
  }

  /** The network is back: reconnect now, before the next attempt. */
  reopen() {
    if (this.#stop !== null) this.open(this.#jobs.filter((job) => !job.ended));
  }
}
