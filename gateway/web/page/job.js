// What is known of a job from its events, and what follows from it. No page, no network, no clock of its own.

const SAMPLES = 12;
const LEAST_SPAN = 1000; // ms
const LEAST_SILENCE = 10_000; // ms

export class Job {
  /** `seq` is the newest event seen; `turns` are its changes of status; `phase` is unknown, running or how it ended. */
  constructor(id) {
    this.id = id;
    this.seq = 0;
    this.phase = "unknown";
    this.state = null;
    this.turns = [];
    this.samples = [];
  }

  get ended() {
    return this.phase !== "unknown" && this.phase !== "running";
  }

  /** Takes an event: its name, its number in the job's log, and the state it carries. */
  take(name, seq, state) {
    if (seq <= this.seq) this.turns = []; // the log begins anew, so the story does too
    this.seq = seq;
    this.phase = name === "progress" ? "running" : name;
    const at = Date.parse(state.at);
    if (this.turns.at(-1)?.status !== state.status) {
      this.turns.push({ status: state.status, at, percentage: state.percentageComplete });
      this.samples = []; // another status moves at another rate
    }
    if (this.samples.at(-1)?.percentage !== state.percentageComplete) {
      this.samples = [...this.samples.slice(1 - SAMPLES), { at, percentage: state.percentageComplete }];
    }
    this.state = state;
  }

  /** Nobody knows it, or not any more. What was seen of it stays. */
  lose() {
    this.phase = "gone";
  }

  /** Milliseconds since its first event, up to `now` or its end. */
  age(now) {
    if (this.turns.length === 0) return null;
    const last = this.ended ? Date.parse(this.state.at) : now;
    return Math.max(last - this.turns[0].at, 0);
  }
}

/**
 * Milliseconds until 100 % at the rate of the newest samples, or null where that would be a guess: with fewer than three
 * of them, all within a moment, or when nothing has moved for much longer than between any two.
 */
export function timeLeft(samples, now) {
  if (samples.length < 3) return null;
  const first = samples[0];
  const last = samples.at(-1);
  const span = last.at - first.at;
  const rate = (last.percentage - first.percentage) / span;
  if (span < LEAST_SPAN || !(rate > 0)) return null;
  const silence = Math.max(now - last.at, 0);
  const longest = Math.max(...samples.slice(1).map((sample, before) => sample.at - samples[before].at));
  if (silence > Math.max(3 * longest, LEAST_SILENCE)) return null;
  return Math.max((100 - last.percentage) / rate - silence, 0);
}

/** The gateway's time, as near as its events tell: this computer's own clock may be wrong. */
export class GatewayClock {
  #ahead = Infinity;

  hear(at, here) {
    const ahead = here - Date.parse(at);
    if (ahead < this.#ahead) this.#ahead = ahead; // the event that was under way for the shortest time
  }

  now(here) {
    return Number.isFinite(this.#ahead) ? here - this.#ahead : here;
  }
}
