// The operator's key, and requests with it.

import { BASE } from "./lines.js";

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

  /**
   * The JSON of the response to a request with the key, or with that of a job; null if it has none. Throws an Error
   * whose message is shown to the user.
   */
  async ask(path, method = "GET", content = null, jobKey = null) {
    let answer;
    try {
      const headers = { Authorization: `Bearer ${jobKey ?? this.#key}` };
      if (content !== null) headers["Content-Type"] = "application/json";
      answer = await fetch(BASE + path, { method, headers, body: content && JSON.stringify(content) });
    } catch {
      throw new Error("The gateway does not answer. Try again.");
    }
    const body = await answer.json().catch(() => null);
    if (answer.ok && (body !== null || answer.status === 204)) return body;
    if (answer.status === 401 && jobKey !== null) throw new Error("That is not the job’s key.");
    if (answer.status === 401) {
      const isDisabled = body?.error?.message.includes("No operator key");
      const disabled = "This gateway has no operator key, so the list is disabled.";
      throw new Error(isDisabled ? disabled : "That is not the operator key.");
    }
    throw new Error(body?.error?.message ?? `The gateway answered ${answer.status}. Try again.`);
  }
}
