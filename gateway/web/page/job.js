// A job's state as its events report it, and estimates from it. No DOM, no network, no clock of its own.

import { short } from "./ids.js";
import { COMPLETED, jobWord } from "./words.js";

const SAMPLES = 12;
const MOST_POINTS = 512;
const LEAST_SPAN = 1000; // ms
const LEAST_SILENCE = 10_000; // ms

export class Job {
  /**
   * `seq` is the number of the newest event; `changes` are the changes of status; `points` are the percentages over
   * time, `{at, percentage}`; `phase` is unknown, running, completed, failed, stopped (by request) or gone.
   */
  constructor(id) {
    this.id = id;
    this.seq = 0;
    this.phase = "unknown";
    this.state = null;
    this.changes = [];
    this.points = [];
    this.samples = [];
  }

  get ended() {
    return this.phase !== "unknown" && this.phase !== "running";
  }

  get name() {
    return this.state?.label ?? `${jobWord(this.state)} ${short(this.id)}`;
  }

  /** Apply an event: its name, its number in the job's log, and its state. */
  take(name, seq, state) {
    if (seq <= this.seq) {
      this.changes = []; // the log is replayed from its start, so timeline and curve are rebuilt
      this.points = [];
    }
    this.seq = seq;
    const at = Date.parse(state.at);
    if (this.changes.at(-1)?.status !== state.status) {
      this.changes.push({ status: state.status, at, percentage: state.percentageComplete });
      this.samples = []; // each status has its own rate
    }
    if (this.samples.at(-1)?.percentage !== state.percentageComplete) {
      this.samples = [...this.samples.slice(1 - SAMPLES), { at, percentage: state.percentageComplete }];
    }
    this.points.push({ at, percentage: state.percentageComplete });
    if (this.points.length > MOST_POINTS) this.points = this.points.filter((_, place) => place % 2 === 0);
    if (!this.ended || this.state === null || state.at >= this.state.at) this.know(state, name); // else its log is read
  }

  /** Take a state without its place in the log, as a list has it. `event` is progress, completed or failed. */
  know(state, event = eventOf(state)) {
    const stopped = state.error?.code === "watchStopped" && state.error.origin === "gateway";
    this.state = state;
    this.phase = stopped ? "stopped" : event === "progress" ? "running" : event;
  }

  /** The gateway does not know the job, or no longer does. The last state seen is kept. */
  lose() {
    this.phase = "gone";
  }

  /** Milliseconds from the first event to the job's end, or to `now`; null before the first event. */
  age(now) {
    if (this.changes.length === 0) return null;
    const last = this.ended ? Date.parse(this.state.at) : now;
    return Math.max(last - this.changes[0].at, 0);
  }
}

function eventOf({ status, error }) {
  if (COMPLETED.includes(status)) return "completed";
  return error ? "failed" : "progress";
}

/**
 * The least and the most milliseconds until 100 %: at the rate of the newest samples, and of either half of them. null
 * where the estimate would be a guess: with fewer than three samples, with all samples within a second, or when the
 * percentage has stood still for much longer than between any two samples.
 */
export function timeLeft(samples, now) {
  if (samples.length < 3) return null;
  const first = samples[0];
  const middle = samples[Math.floor(samples.length / 2)];
  const last = samples.at(-1);
  const rate = (from, to) => (to.percentage - from.percentage) / (to.at - from.at);
  if (last.at - first.at < LEAST_SPAN || !(rate(first, last) > 0)) return null;
  const silence = Math.max(now - last.at, 0);
  const longest = Math.max(...samples.slice(1).map((sample, before) => sample.at - samples[before].at));
  if (silence > Math.max(3 * longest, LEAST_SILENCE)) return null;
  const rates = [rate(first, last), rate(first, middle), rate(middle, last)].filter((one) => one > 0 && one < Infinity);
  const until = (one) => Math.max((100 - last.percentage) / one - silence, 0);
  return [until(Math.max(...rates)), until(Math.min(...rates))];
}

/** The gateway's time, estimated from its events: this computer's own clock may be wrong. */
export class GatewayClock {
  #ahead = Infinity;

  hear(at, here) {
    const ahead = here - Date.parse(at);
    if (ahead < this.#ahead) this.#ahead = ahead; // from what was shortest in transit; NaN never
  }

  now(here) {
    return Number.isFinite(this.#ahead) ? here - this.#ahead : here;
  }
}
