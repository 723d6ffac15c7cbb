// A job's card: a line with state, name, bar, percentage, time left and age, which opens into the details. They are
// built when it is opened: of 200 lines, most never are.

import { Details } from "./details.js";
import { element, icon, say, show } from "./dom.js";
import { timeLeft } from "./job.js";
import { ago, duration, left, moment, percent, stateWord, troubleWords } from "./words.js";

const TONES = { unknown: "calm", completed: "good", failed: "bad", stopped: "calm", gone: "calm" };
let made = 0;

export class Card {
  #details = null;
  #open = false;
  #line = null; // until it is known

  /** `leave` is called when the user stops following; `actions` makes nodes that stand below the details. */
  constructor(job, operator, { leave = null, actions = () => [] } = {}) {
    this.job = job;
    this.operator = operator;
    this.actions = actions;
    this.id = `card-${(made += 1)}`;
    this.name = element("bdi", {}, job.name);
    this.title = element("h3", { id: this.id, tabindex: "-1" }, this.name);
    this.pill = element("bdi", { class: "pill", "data-tone": "calm" }, "Connecting");
    this.bar = element("progress", { max: "100", "aria-labelledby": this.id });
    this.percent = element("span", { class: "percent" });
    this.left = element("bdi", { class: "left" });
    this.age = element("span", { class: "age" });
    this.opener = element(
      "button",
      { type: "button", class: "opener", "aria-expanded": "false", click: () => this.#toggle() },
      icon("M4 2l4 4-4 4"),
    );
    this.closer = element(
      "button",
      { type: "button", class: "close", click: leave ?? (() => {}) },
      icon("M2 2l8 8M10 2l-8 8"),
    );
    show(this.closer, leave !== null);
    this.line = element(
      "div",
      { class: "line", click: (event) => this.#line && !event.target.closest("button") && this.#toggle() },
      ...[this.title, this.pill, this.percent, this.left, this.age, this.bar, this.opener, this.closer],
    );
    this.article = element("article", { "aria-labelledby": this.id }, this.line);
    this.node = element("li", { class: "job", "data-phase": "unknown", "data-job": job.id }, this.article);
  }

  /** Whether the card is one line of many, which the user opens, or stands open. */
  set compact(compact) {
    if (compact === this.#line) return;
    this.#line = compact;
    this.#arrange();
  }

  paint(now, away = null) {
    const { job } = this;
    if (this.node.dataset.phase !== job.phase) {
      this.node.dataset.phase = job.phase;
      this.pill.dataset.tone = TONES[job.phase] ?? "";
      this.#details?.look();
    }
    this.node.toggleAttribute("data-away", away !== null && !job.ended);
    say(this.pill, stateWord(job));
    this.#call(job.name);
    if (job.state !== null) {
      this.bar.value = job.state.percentageComplete;
      say(this.percent, percent(job.state.percentageComplete));
    } else if (job.ended) {
      this.bar.value = 0;
    }
    say(this.age, this.#times(now));
    if (job.ended && job.state !== null) this.age.title = moment(Date.parse(job.state.at));
    say(this.left, this.#outlook(now, away));
    if (this.#shown) this.#details.paint(now, away);
  }

  /** Open the details and what is folded in them. */
  open() {
    this.#open = true;
    this.#arrange();
    this.#details.unfold();
  }

  get isOpen() {
    return this.#open;
  }

  /** Refresh the callbacks, if they are shown. */
  look() {
    this.#details?.look();
  }

  get #shown() {
    return this.#open || this.#line === false;
  }

  #toggle() {
    this.#open = !this.#open;
    this.#arrange();
    this.node.dispatchEvent(new CustomEvent("turned", { bubbles: true }));
  }

  #arrange() {
    this.node.toggleAttribute("data-line", this.#line === true);
    this.node.toggleAttribute("data-open", this.#shown);
    show(this.opener, this.#line === true);
    this.opener.setAttribute("aria-expanded", String(this.#shown));
    if (this.#shown && this.#details === null) {
      this.#details = new Details(this.job, this.operator, `${this.id}-details`, this.actions());
      this.article.append(this.#details.node);
      this.opener.setAttribute("aria-controls", this.#details.node.id);
    }
    if (this.#details !== null) show(this.#details.node, this.#shown);
  }

  #call(name) {
    if (this.closer.title !== "" && this.name.textContent === name) return;
    say(this.name, name);
    this.title.title = name;
    this.closer.title = `Stop following ${name}`;
    this.closer.setAttribute("aria-label", this.closer.title);
    this.opener.setAttribute("aria-label", `Details of ${name}`);
  }

  /** How long it runs; or how long it took, if its log was read, and how long ago it ended. */
  #times(now) {
    const { job } = this;
    const age = job.age(now);
    if (!job.ended) return age === null ? "" : duration(Math.floor(age / 1000) * 1000);
    if (job.state === null || job.phase === "gone") return "";
    const since = ago(now - Date.parse(job.state.at));
    return age === null ? since : `took ${duration(age)} · ${since}`;
  }

  /** The time left; on a closed line also why it failed or does not move. */
  #outlook(now, away) {
    const { state, phase, samples, ended } = this.job;
    if (!this.#shown) {
      if (away !== null && !ended) return "not connected";
      if (phase === "failed") return state.error.message;
      if (state?.trouble && !ended) return troubleWords(state.trouble, now, true);
    }
    if (state === null || ended || away !== null) return "";
    if (state.percentageComplete === 100) return "all copied, waiting for the final status";
    const remaining = timeLeft(samples, now);
    return remaining === null || remaining[1] === 0 ? "" : left(remaining); // overdue: nobody knows
  }
}
