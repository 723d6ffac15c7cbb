// A job's callbacks (webhooks), for the operator: the state of each, and a retry.

import { element, foreign, say, show } from "./dom.js";
import { count, duration, moment, spoken } from "./words.js";

const FIRST_REFRESH = 2000; // ms, while a callback is active; then twice the previous wait each time
const LONGEST_REFRESH = 60_000;
const TONES = { active: null, delivered: "good", exhausted: "bad", gone: "calm" };

export class Callbacks {
  #timer = 0;
  #wait = FIRST_REFRESH;
  #unfolded = new Set(); // ids of the callbacks whose attempts are shown, since each refresh makes new rows

  constructor(id, operator) {
    this.path = `jobs/${id}/callbacks`;
    this.operator = operator;
    this.words = element("p", { class: "hint", role: "status" });
    this.list = element("ul");
    this.node = element(
      "section",
      { class: "callbacks", hidden: true },
      element(
        "div",
        { class: "tools" },
        element("h4", {}, "Callbacks (webhooks)"),
        element("button", { type: "button", class: "quiet", click: () => this.look() }, "Refresh"),
      ),
      this.words,
      this.list,
    );
  }

  /** Load and show the callbacks, if the operator has unlocked the page. */
  look() {
    this.#wait = FIRST_REFRESH;
    return this.#load();
  }

  async #load() {
    clearTimeout(this.#timer);
    show(this.node, this.operator.isOpen);
    if (!this.operator.isOpen) return this.list.replaceChildren();
    try {
      const { value } = await this.operator.ask(this.path);
      say(this.words, value.length === 0 ? "No callbacks are registered." : "");
      this.list.replaceChildren(...value.map((callback) => this.#row(callback)));
      if (value.some((callback) => callback.state === "active") && this.node.isConnected) {
        this.#timer = setTimeout(() => this.#load(), this.#wait);
        this.#wait = Math.min(2 * this.#wait, LONGEST_REFRESH);
      }
    } catch (error) {
      say(this.words, error.message);
    }
    show(this.words, this.words.textContent !== "");
  }

  #row(callback) {
    const facts = [count(callback.attempts, "attempt"), `subscribed to ${callback.events.join(", ")}`];
    if (callback.nextAttemptAt) facts.push(`next attempt ${moment(Date.parse(callback.nextAttemptAt))}`);
    const retry = element("button", { type: "button", click: () => this.#retry(callback, retry) }, "Try again");
    retry.setAttribute("aria-label", `Try again: ${callback.url}`);
    return element(
      "li",
      {},
      element(
        "div",
        { class: "head" },
        element("code", {}, foreign(callback.url)),
        element("span", { class: "pill", "data-tone": TONES[callback.state] }, spoken(callback.state)),
      ),
      element("p", { class: "note" }, facts.join(" · ")),
      callback.lastError ? element("p", { class: "problem" }, "Last error: ", foreign(callback.lastError)) : "",
      callback.history.length > 0 ? this.#history(callback) : "",
      callback.state === "delivered" ? "" : retry,
    );
  }

  #history({ id, history }) {
    const lines = history.toReversed().map(({ at, status, error, durationMs }) => {
      const facts = [moment(Date.parse(at)), error ?? `answered ${status}`, duration(durationMs)];
      return element("li", { class: "note" }, facts.join(" · "));
    });
    const node = element(
      "details",
      { open: this.#unfolded.has(id), toggle: () => this.#unfolded[node.open ? "add" : "delete"](id) },
      element("summary", {}, `Last ${count(history.length, "attempt")}`),
      element("ol", {}, ...lines),
    );
    return node;
  }

  async #retry(callback, button) {
    button.disabled = true;
    try {
      await this.operator.ask(`${this.path}/${callback.id}/retry`, "POST");
      await this.look();
    } catch (error) {
      say(this.words, error.message);
      show(this.words, true);
      button.disabled = false;
    }
  }
}
