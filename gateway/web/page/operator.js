// The operator's view, unlocked by the operator key: the list of all jobs, and requests for their callbacks.

import { idOf } from "./card.js";
import { element, say, show } from "./dom.js";
import { BASE } from "./lines.js";
import { short } from "./ids.js";
import { COMPLETED, count, moment, percent, spoken, STATUSES } from "./words.js";

const PAGE = 50;

export class Operator {
  // In memory only: sessionStorage would outlive the page, be restored with the window, and be written to disk.
  #key = null;

  get isOpen() {
    return this.#key !== null;
  }

  take(key) {
    this.#key = key;
  }

  lock() {
    this.#key = null;
  }

  /** The JSON of the response to a request with the key. Throws an Error whose message is shown to the user. */
  async ask(path, method = "GET") {
    let answer;
    try {
      answer = await fetch(BASE + path, { method, headers: { Authorization: `Bearer ${this.#key}` } });
    } catch {
      throw new Error("The gateway does not answer. Try again.");
    }
    const body = await answer.json().catch(() => null);
    if (answer.ok && body !== null) return body;
    if (answer.status === 401) {
      const isDisabled = body?.error?.message.includes("No operator key");
      const disabled = "This gateway has no operator key, so the list is disabled.";
      throw new Error(isDisabled ? disabled : "That is not the operator key.");
    }
    throw new Error(body?.error?.message ?? `The gateway answered ${answer.status}. Try again.`);
  }
}

/** The list and its tools. `follow` takes ids; `changed` is called after the key was set or cleared. */
export class AllJobs {
  #cursor = null;
  #shown = [];
  #newest = 0;

  constructor(operator, { follow, changed }) {
    this.operator = operator;
    this.follow = follow;
    this.changed = changed;
    this.at = (id) => document.getElementById(id);
    const choices = STATUSES.map((status) => element("option", { value: status }, spoken(status)));
    this.at("status").append(element("option", { value: "" }, "Any"), ...choices);
    this.at("key-form").addEventListener("submit", (event) => this.#unlock(event));
    this.at("status").addEventListener("change", () => this.#load());
    this.at("refresh").addEventListener("click", () => this.#load());
    this.at("more").addEventListener("click", () => this.#load(this.#cursor));
    this.at("lock").addEventListener("click", () => this.#lock());
    this.at("follow-all").addEventListener("click", () => follow(this.#shown));
  }

  async #unlock(event) {
    event.preventDefault();
    const key = this.at("key").value.trim();
    // Other characters are invalid in a header.
    if (!/^[\x21-\x7e]+$/.test(key)) return say(this.at("key-problem"), "A key has visible ASCII characters only.");
    this.operator.take(key);
    try {
      await this.#page("");
    } catch (error) {
      this.operator.lock();
      return say(this.at("key-problem"), error.message);
    }
    say(this.at("key-problem"), "");
    this.at("key").value = "";
    show(this.at("key-form"), false);
    show(this.at("all"), true);
    show(this.at("lock"), true);
    this.at("status").focus();
    this.changed();
  }

  #lock() {
    this.operator.lock();
    this.#newest += 1;
    this.at("all-jobs").replaceChildren();
    show(this.at("all"), false);
    show(this.at("lock"), false);
    show(this.at("key-form"), true);
    this.at("key").focus();
    this.changed();
  }

  async #load(cursor = null) {
    try {
      await this.#page(this.at("status").value, cursor);
    } catch (error) {
      say(this.at("all-words"), error.message);
    }
  }

  async #page(status, cursor = null) {
    const request = (this.#newest += 1);
    const query = new URLSearchParams({ limit: PAGE, ...(status && { status }), ...(cursor && { cursor }) });
    const { value, nextLink } = await this.operator.ask(`jobs?${query}`);
    if (request !== this.#newest) return; // a newer request was sent meanwhile
    const rows = value.map((state) => this.#row(state));
    // Only the link's cursor is used: its origin is the gateway's public URL, which may differ from this page's.
    this.#cursor = nextLink ? new URL(nextLink).searchParams.get("cursor") : null;
    if (cursor === null) {
      this.#shown = [];
      this.at("all-jobs").replaceChildren(...rows);
    } else {
      this.at("all-jobs").append(...rows);
      rows[0]?.querySelector("button").focus();
    }
    this.#shown.push(...value.map((state) => state.jobId));
    const found = count(this.#shown.length, "job");
    say(this.at("all-words"), `${found}${this.#cursor ? ", more available" : ""} · as of ${moment(Date.now())}`);
    show(this.at("more"), this.#cursor !== null);
    show(this.at("follow-all"), this.#shown.length > 1);
  }

  #row(state) {
    const tone = COMPLETED.includes(state.status) ? "good" : state.error ? "bad" : null;
    return element(
      "li",
      { "data-job": state.jobId },
      element(
        "div",
        { class: "head" },
        idOf(state.jobId),
        element("span", { class: "pill", "data-tone": tone }, spoken(state.status)),
      ),
      element("p", { class: "note" }, `${percent(state.percentageComplete)} · ${moment(Date.parse(state.at))}`),
      element(
        "button",
        {
          type: "button",
          "aria-label": `Follow ${short(state.jobId)}`,
          click: () => this.follow([state.jobId], { focus: true }),
        },
        "Follow",
      ),
    );
  }
}
