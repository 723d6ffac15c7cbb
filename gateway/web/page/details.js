// What a job's line opens into: the outlook, the ending, the curve, the timeline, code, and callbacks.

import { Callbacks } from "./callbacks.js";
import { Curve } from "./curve.js";
import { clipboard, code, element, foreign, say, show, tabs } from "./dom.js";
import { browser, curl, jobUrl, python, read } from "./lines.js";
import { TokenForm } from "./token.js";
import { verdict } from "./verdict.js";
import { duration, isCopy, moment, needsToken, percent, spoken, stateWord, troubleWords } from "./words.js";

const ITEM = /\/items\/[^/]+$/; // the resources that the gateway reads; others are read at Graph

export class Details {
  #folded = null;
  #painted = {};

  /** `id` is unique in the page, for elements that name each other. `actions` are nodes for the operator. */
  constructor(job, operator, id, actions) {
    this.job = job;
    this.operator = operator;
    this.id = id;
    this.described = element("bdi");
    this.facts = element("span");
    this.note = element("p", { class: "note" }, this.described, this.facts);
    this.trouble = element("p", { class: "trouble", hidden: true });
    this.token = new TokenForm(job, operator, id);
    this.verdict = element("div", { class: "verdict", hidden: true });
    this.curve = new Curve();
    this.fold = element("details", { toggle: () => this.#unfold() }, element("summary", {}, "Timeline and code"));
    const shownId = element("code", {}, job.id);
    this.node = element(
      "div",
      { class: "body", id },
      ...[this.note, this.trouble, this.token.node, this.verdict, this.curve.node, this.fold],
      element(
        "p",
        { class: "meta tools" },
        shownId,
        clipboard(jobUrl(job.id), "the job’s URL", "URL to clipboard", shownId),
        ...actions,
      ),
    );
  }

  unfold() {
    this.fold.open = true;
  }

  /** Refresh the callbacks, if they are shown. An unknown job has none. */
  look() {
    if (this.job.phase !== "gone") this.#folded?.callbacks.look();
  }

  paint(now, away) {
    const { job } = this;
    const described = (!job.ended && job.state?.statusDescription) || "";
    const facts = job.ended ? this.#ending() : this.#outlook(now);
    say(this.described, described);
    say(this.facts, [described && facts && " · ", facts].join(""));
    show(this.note, described + facts !== "");
    const trouble = job.ended ? "" : this.#trouble(now, away);
    say(this.trouble, trouble);
    show(this.trouble, trouble !== "");
    this.token.paint(away === null && needsToken(job));
    if (job.ended && this.#painted.phase !== job.phase) this.verdict.replaceChildren(...verdict(job));
    show(this.verdict, job.ended);
    show(this.fold, job.phase !== "gone");
    this.#painted.phase = job.phase;
    this.curve.paint(job.points, job.ended ? Date.parse(job.state?.at) : now);
    if (this.#folded !== null) this.#paintFolded();
  }

  #outlook(now) {
    const { job } = this;
    if (job.state === null) return "";
    const change = now - Date.parse(job.state.at);
    const facts = [];
    if (job.age(now) !== null) facts.push(`running for ${seconds(job.age(now))}`);
    if (change >= 1000) facts.push(`last change ${seconds(change)} ago`);
    return facts.join(" · ");
  }

  #trouble(now, away) {
    if (away !== null) return `Not connected since ${moment(away)}. It goes on upstream; this is what was seen last.`;
    return this.job.state?.trouble ? `${troubleWords(this.job.state.trouble, now)}.` : "";
  }

  #ending() {
    const { job } = this;
    if (job.state === null) return "";
    const at = moment(Date.parse(job.state.at));
    if (job.phase === "gone") return `${at} · last seen`;
    return job.age(0) === null ? at : `${at} · took ${duration(job.age(0))}`;
  }

  #unfold() {
    if (!this.fold.open || this.#folded !== null) return;
    const { id } = this.job;
    const timeline = element("ol", { class: "timeline" });
    const callbacks = new Callbacks(id, this.operator);
    const result = element("div", { class: "result", hidden: true });
    this.#folded = { timeline, callbacks, result };
    this.fold.append(
      element(
        "div",
        { class: "details" },
        element("section", {}, element("h4", {}, "Timeline"), timeline),
        element(
          "section",
          { class: "same" },
          element("h4", {}, "Follow this job in code"),
          tabs(`${this.id}-lines`, "Language", [
            ["curl", () => code(curl(id), "the curl command")],
            ["JavaScript", () => code(browser(id), "the JavaScript code")],
            ["Python", () => code(python(id), "the Python code")],
          ]),
          result,
        ),
        callbacks.node,
      ),
    );
    this.#paintFolded();
    this.look();
  }

  #paintFolded() {
    const { changes, phase, state } = this.job;
    const { result } = this.#folded;
    if (result.hidden && phase === "completed" && ITEM.test(state.resource)) {
      const item = isCopy(state) ? "the new item" : "the item";
      const line = code(read(state.resource), `the command that reads ${item}`);
      result.append(element("h4", {}, `Read ${item}`), line);
      show(result, true);
    }
    if (this.#painted.changes === changes && this.#painted.length === changes.length) return;
    this.#painted.changes = changes;
    this.#painted.length = changes.length;
    const newest = phase === "stopped" ? changes.length - 1 : null; // a job that was stopped has the status failed
    const rows = changes.map((change, place) =>
      element(
        "li",
        { "data-status": change.status },
        element("strong", {}, foreign(place === newest ? stateWord(this.job) : spoken(change.status))),
        element("span", { class: "at" }, percent(change.percentage)),
        element(
          "time",
          { datetime: new Date(change.at).toISOString() },
          moment(change.at) + (place === 0 ? "" : `, after ${duration(change.at - changes[place - 1].at)}`),
        ),
      ),
    );
    this.#folded.timeline.replaceChildren(
      ...(rows.length > 0 ? rows : [element("li", { class: "none" }, "No events yet.")]),
    );
  }
}

function seconds(ms) {
  return duration(Math.floor(ms / 1000) * 1000);
}
