// A job's card. Its details are built when they are opened: of 200 cards, most are never opened.

import { Callbacks } from "./callbacks.js";
import { code, element, say, show, tabs } from "./dom.js";
import { short } from "./ids.js";
import { timeLeft } from "./job.js";
import { BASE, browser, curl, python, read } from "./lines.js";
import { advice, CANCELLED, duration, left, moment, percent, spoken } from "./words.js";

const TONES = { unknown: "calm", completed: "good", failed: "bad", gone: "calm" };

export class Card {
  #details = null;
  #painted = {};

  /** `leave` is called when the user stops following the job. */
  constructor(job, operator, leave) {
    this.job = job;
    this.operator = operator;
    const title = `job-${job.id}`;
    this.title = element("h3", { id: title, tabindex: "-1" }, element("span", {}, "Copy"), " ", idOf(job.id));
    this.pill = element("span", { class: "pill", "data-tone": "calm" }, "Connecting");
    this.bar = element("progress", { max: "100", "aria-labelledby": title });
    this.percent = element("span", { class: "percent" });
    this.note = element("p", { class: "note" });
    this.verdict = element("div", { class: "verdict", hidden: true });
    this.fold = element("details", { toggle: () => this.#unfold() }, element("summary", {}, "Timeline and code"));
    this.node = element(
      "li",
      { class: "job", "data-phase": "unknown", "data-job": job.id },
      element(
        "article",
        { "aria-labelledby": title },
        element(
          "div",
          { class: "head" },
          this.title,
          this.pill,
          element(
            "button",
            { type: "button", class: "close", "aria-label": `Stop following ${short(job.id)}`, click: leave },
            cross(),
          ),
        ),
        element("div", { class: "progress" }, this.bar, this.percent),
        this.note,
        this.verdict,
        this.fold,
      ),
    );
  }

  paint(now) {
    const { job } = this;
    if (this.node.dataset.phase !== job.phase) {
      this.node.dataset.phase = job.phase;
      this.pill.dataset.tone = TONES[job.phase] ?? "";
      this.look();
    }
    say(this.pill, status(job));
    if (job.state !== null) {
      say(this.title.firstChild, spoken(job.state.operation).replace(/^Item /, "").replace(/^c/, "C"));
      this.bar.value = job.state.percentageComplete;
      say(this.percent, percent(job.state.percentageComplete));
    } else if (job.ended) {
      this.bar.value = 0;
    }
    const note = job.ended ? this.#ending() : this.#outlook(now);
    say(this.note, note);
    show(this.note, note !== "");
    if (job.ended && this.#painted.phase !== job.phase) this.verdict.replaceChildren(...verdict(job));
    show(this.verdict, job.ended);
    this.#painted.phase = job.phase;
    if (this.#details !== null) this.#paintDetails();
  }

  open() {
    this.fold.open = true;
  }

  /** Refresh the callbacks, if the details are open. An unknown job has none. */
  look() {
    if (this.job.phase !== "gone") this.#details?.callbacks.look();
  }

  #outlook(now) {
    const { job } = this;
    if (job.state === null) return "";
    const facts = [job.state.statusDescription, `running for ${duration(Math.floor(job.age(now) / 1000) * 1000)}`];
    const remaining = timeLeft(job.samples, now);
    if (job.state.percentageComplete === 100) facts.push("all copied, waiting for the final status");
    else if (remaining !== null) facts.push(left(remaining));
    return facts.filter(Boolean).join(" · ");
  }

  #ending() {
    const { job } = this;
    if (job.state === null) return "";
    return `${moment(Date.parse(job.state.at))} · ${job.phase === "gone" ? "last seen" : `took ${duration(job.age(0))}`}`;
  }

  #unfold() {
    if (!this.fold.open || this.#details !== null) return;
    const { id } = this.job;
    const timeline = element("ol", { class: "timeline" });
    const callbacks = new Callbacks(id, this.operator);
    const result = element("div", { class: "result", hidden: true });
    this.#details = { timeline, callbacks, result };
    this.fold.append(
      element(
        "div",
        { class: "details" },
        element("section", {}, element("h4", {}, "Timeline"), timeline),
        element(
          "section",
          { class: "same" },
          element("h4", {}, "Follow this job in code"),
          tabs(`lines-${id}`, "Language", [
            ["curl", () => code(curl(id), "the curl command")],
            ["JavaScript", () => code(browser(id), "the JavaScript code")],
            ["Python", () => code(python(id), "the Python code")],
          ]),
          result,
        ),
        callbacks.node,
      ),
    );
    this.#paintDetails();
    this.look();
  }

  #paintDetails() {
    const { changes, phase, state } = this.job;
    const { result } = this.#details;
    if (result.hidden && phase === "completed" && state.resource) {
      const line = code(read(state.resource), "the command that reads the new item");
      result.append(element("h4", {}, "Read the new item"), line);
      show(result, true);
    }
    if (this.#painted.changes === changes && this.#painted.length === changes.length) return;
    this.#painted.changes = changes;
    this.#painted.length = changes.length;
    const rows = changes.map((change, place) =>
      element(
        "li",
        { "data-status": change.status },
        element("strong", {}, spoken(change.status)),
        element("span", { class: "at" }, percent(change.percentage)),
        element(
          "time",
          { datetime: new Date(change.at).toISOString() },
          moment(change.at) + (place === 0 ? "" : `, after ${duration(change.at - changes[place - 1].at)}`),
        ),
      ),
    );
    this.#details.timeline.replaceChildren(
      ...(rows.length > 0 ? rows : [element("li", { class: "none" }, "No events yet.")]),
    );
  }
}

function status({ phase, state }) {
  if (phase === "gone") return "Unknown";
  return state === null ? "Connecting" : spoken(state.status);
}

function verdict({ phase, state }) {
  if (phase === "gone") {
    return [
      element("h4", {}, "Unknown job"),
      element(
        "p",
        {},
        "Its id is wrong or incomplete, or the job ended so long ago that it was deleted. ",
        `This page asks only the gateway at ${BASE}.`,
      ),
    ];
  }
  if (phase === "completed") {
    const leftOut = state.error ? [element("h4", {}, "What was left out"), ...reasons(state.error)] : [];
    return [element("h4", {}, "The new item"), element("p", {}, ...item(state)), ...leftOut];
  }
  const { error } = state;
  const heading =
    error.origin === "gateway"
      ? "The gateway lost track of the copy"
      : `The copy ${CANCELLED.includes(state.status) ? "was cancelled" : "failed"}`;
  return [
    element("h4", {}, heading),
    ...reasons(error),
    element("p", { class: "advice" }, element("strong", {}, "What to do: "), advice(error)),
  ];
}

function item({ resource, resourceId }) {
  if (resource) return [element("code", { class: "resource" }, resource)];
  if (!resourceId) return ["Upstream did not name the new item. Look in the target folder."];
  return ["Its id is ", element("code", { class: "resource" }, resourceId), "; upstream did not name its drive."];
}

function reasons(error) {
  const details = (error.details ?? []).map((detail) =>
    element(
      "li",
      {},
      [detail.message, detail.target].filter(Boolean).join(": "),
      " ",
      detail.code ? element("code", {}, detail.code) : null,
    ),
  );
  return [
    element("p", { class: "message" }, error.message, " ", element("code", {}, error.code)),
    details.length > 0 ? element("ul", {}, ...details) : "",
  ];
}

export function idOf(id) {
  return element("code", { title: id }, short(id));
}

function cross() {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  shape.setAttribute("viewBox", "0 0 12 12");
  shape.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M2 2l8 8M10 2l-8 8");
  shape.append(path);
  return shape;
}
