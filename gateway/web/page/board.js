// Cards, the one stream over their jobs, and the rendering: at most once a frame, and only of the cards that changed.

import { BASE } from "./lines.js";
import { Stream } from "./stream.js";

const AWAY = ["reconnecting", "busy"];

export class Board {
  cards = new Map(); // by job id, in display order
  connection = "idle";
  #dirty = new Set();
  #ended = [];
  #due = false;
  #away = null;

  /** `painted` is called after each frame with the jobs that ended in it; `connected` after each change of `connection`. */
  constructor(clock, { painted, connected }) {
    this.clock = clock;
    this.painted = painted;
    this.connected = connected;
    this.stream = new Stream(BASE, {
      event: (job, name, seq, state) => {
        clock.hear(state.at, Date.now());
        job.take(name, seq, state);
        this.#changed(job);
      },
      lost: (jobs) => {
        for (const job of jobs) {
          job.lose();
          this.#changed(job);
        }
      },
      connection: (word) => this.connect(word),
    });
    addEventListener("online", () => this.stream.reopen());
    addEventListener("pagehide", () => this.stream.close()); // a page in the back/forward cache holds no stream
    document.addEventListener("visibilitychange", () => this.#due && this.paint());
    setInterval(() => {
      if (!document.hidden) this.paintSoon(...[...this.cards.values()].filter(({ job }) => job.phase === "running"));
    }, 1000);
    setInterval(() => document.hidden || this.paintSoon(...this.cards.values()), 60_000); // ended ones tell how long ago
  }

  get jobs() {
    return [...this.cards.values()].map((card) => card.job);
  }

  get running() {
    return this.jobs.filter((job) => !job.ended);
  }

  connect(word) {
    const before = this.connection;
    if (word === before) return;
    this.connection = word;
    if (AWAY.includes(word)) this.#away ??= Date.now();
    else if (word !== "connecting") this.#away = null;
    this.paintSoon(...this.cards.values());
    this.connected(word, before);
  }

  paintSoon(...cards) {
    for (const card of cards) this.#dirty.add(card);
    if (this.#due) return;
    this.#due = true;
    if (document.hidden) setTimeout(() => this.paint(), 250); // a hidden tab gets no frames, but its title still changes
    else requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.#due = false;
    const now = this.clock.now(Date.now());
    for (const card of this.#dirty) card.paint(now, this.#away);
    this.#dirty.clear();
    this.painted(this.#ended.splice(0));
  }

  #changed(job) {
    if (job.ended) this.#ended.push(job);
    const card = this.cards.get(job.id);
    if (card) this.paintSoon(card);
  }
}
