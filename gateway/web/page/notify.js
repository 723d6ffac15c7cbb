// Notifications of the browser when jobs end, if the user asked for them.

import { say, show } from "./dom.js";
import { count, stateWord } from "./words.js";

export class Notifier {
  #isOn = false;

  constructor(button) {
    this.button = button;
    button.addEventListener("click", () => this.#turn());
  }

  /** Offer it while there is something to wait for. */
  offer(offered) {
    show(this.button, offered && "Notification" in window);
  }

  tell(jobs) {
    if (!this.#isOn || jobs.length === 0) return;
    const words = jobs.map((job) => `${job.name}: ${stateWord(job)}`);
    new Notification(words.length > 3 ? `${count(words.length, "job")} ended` : words.join("\n"));
  }

  async #turn() {
    this.#isOn = !this.#isOn && (await Notification.requestPermission()) === "granted";
    this.button.setAttribute("aria-pressed", String(this.#isOn));
    const isRefused = Notification.permission === "denied";
    say(this.button, isRefused ? "The browser does not allow notifications" : "Notify me at the end");
  }
}
