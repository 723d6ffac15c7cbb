// A form for a job whose status asks for a token that the gateway does not have: who holds the job's key hands one in.

import { element, say, show } from "./dom.js";
import { BASE } from "./lines.js";

export class TokenForm {
  constructor(job, operator, id) {
    this.job = job;
    this.operator = operator;
    this.key = secret(`${id}-key`);
    this.token = secret(`${id}-token`);
    this.words = element("p", { class: "hint", role: "status" });
    this.keyField = field("jobKey, from the answer that started the job", this.key);
    this.node = element(
      "form",
      { class: "token", hidden: true, novalidate: true, submit: (event) => this.#handIn(event) },
      this.keyField,
      field("A fresh access token for Graph", this.token),
      element("button", { type: "submit" }, "Hand in"),
      this.words,
    );
  }

  /** The operator's key opens what a job's key opens. */
  paint(isAskedFor) {
    show(this.node, isAskedFor);
    show(this.keyField, !this.operator.isOpen);
  }

  async #handIn(event) {
    event.preventDefault();
    const token = this.token.value.trim();
    const key = this.key.value.trim();
    if (![token, this.operator.isOpen ? "-" : key].every((text) => /^[\x21-\x7e]+$/.test(text.replace(/^Bearer /i, "")))) {
      return say(this.words, "Fill in both; they have visible ASCII characters only, and no spaces.");
    }
    say(this.words, "Handing it in …");
    try {
      await this.operator.ask(`jobs/${this.job.id}/token`, "PUT", { token }, this.operator.isOpen ? null : key);
      this.token.value = this.key.value = "";
      say(this.words, "Handed in. The gateway asks Graph again; if this stays for a minute, Graph refuses that token too.");
    } catch (error) {
      say(this.words, error.message);
    }
  }
}

/** An input whose value is neither shown nor kept by the browser. */
function secret(id) {
  return element("input", { id, type: "password", autocomplete: "off", spellcheck: "false", required: true });
}

function field(words, input) {
  return element("div", {}, element("label", { for: input.id }, words), input);
}
