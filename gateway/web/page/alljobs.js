// The operator's view: the list of all jobs, kept up to date, and one stream over the rows that are seen.

import { Board } from "./board.js";
import { Card } from "./card.js";
import { element, say, show } from "./dom.js";
import { Job } from "./job.js";
import { Tools } from "./tools.js";
import { count, moment, spoken, STATUSES } from "./words.js";

const PAGE = 50;
const REFRESH = 5000; // ms between looks for new jobs
const MOST_STREAMED = 200; // the gateway's limit for one stream
const SEARCHED = 200; // rows a page while a search looks on
const MOST_SEARCHED = 1000; // rows after which a search looks on only if asked
const ENOUGH = 20; // matches after which it need not
const SETTLED = 250; // ms without scrolling until the stream is opened over other rows

export class AllJobs {
  #cursor = null;
  #newest = 0;
  #seen = new Set(); // ids of the rows on the screen
  #streamed = "";
  #settling = 0;
  #shown = false;
  #searching = false;

  /** `follow` takes ids; `changed` is called after the key was set or cleared, `connected` as for a board. */
  constructor(operator, clock, { follow, changed, connected }) {
    this.operator = operator;
    this.follow = follow;
    this.changed = changed;
    this.at = (id) => document.getElementById(id);
    this.list = this.at("all-jobs");
    this.board = new Board(clock, {
      painted: () => this.#painted(),
      connected: (word, before) => connected(word === "ended" ? "idle" : word, before),
    });
    this.tools = new Tools(this.at("all-tools"), {
      filters: false,
      sort: "added",
      changed: () => {
        this.#told();
        this.#search();
      },
    });
    this.observer = new IntersectionObserver((rows) => this.#scrolled(rows));
    const choices = STATUSES.map((status) => element("option", { value: status }, spoken(status)));
    this.at("status").append(element("option", { value: "" }, "Any"), ...choices);
    this.at("key-form").addEventListener("submit", (event) => this.#unlock(event));
    this.at("status").addEventListener("change", () => this.#load());
    this.at("refresh").addEventListener("click", () => this.#load());
    this.at("more").addEventListener("click", () => this.#more());
    this.at("lock").addEventListener("click", () => this.#lock());
    this.at("follow-all").addEventListener("click", () => follow([...this.board.cards.keys()]));
    this.at("monitor-form").addEventListener("submit", (event) => this.#watch(event));
    this.list.addEventListener("turned", (event) => this.#turned(event.target.dataset.job));
    addEventListener("pageshow", (event) => {
      if (!event.persisted) return;
      this.#streamed = ""; // it was closed when the page was left
      this.#stream();
    });
    setInterval(() => this.#isLive && !document.hidden && this.#refresh(), REFRESH);
  }

  get connection() {
    return this.board.connection === "ended" ? "idle" : this.board.connection; // the list goes on
  }

  /** Whether the view is shown; it holds a stream only then. */
  set shown(shown) {
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#stream();
    if (this.#isLive) this.#refresh();
  }

  get #isLive() {
    return this.#shown && this.operator.isOpen;
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
    this.#open(true);
    this.at("status").focus();
    this.changed();
  }

  #lock() {
    this.operator.lock();
    this.#newest += 1;
    this.#clear();
    this.#open(false);
    this.#stream();
    this.at("key").focus();
    this.changed();
  }

  #open(isOpen) {
    show(this.at("key-form"), !isOpen);
    show(this.at("all"), isOpen);
    show(this.at("lock"), isOpen);
  }

  #clear() {
    this.observer.disconnect();
    this.#seen.clear();
    this.board.cards.clear();
    this.list.replaceChildren();
  }

  async #load(cursor = null) {
    try {
      return await this.#page(this.at("status").value, cursor);
    } catch (error) {
      say(this.at("all-words"), error.message);
      return [];
    }
  }

  async #more() {
    const added = await this.#load(this.#cursor);
    added[0]?.opener.focus();
  }

  /** Load further pages until enough rows match what is searched for, the list ends, or the bound is reached. */
  async #search() {
    if (this.#searching) return; // the loop below looks at the newest words
    this.#searching = true;
    while (this.#isWanting) if ((await this.#load(this.#cursor)).length === 0) break;
    this.#searching = false;
  }

  get #isWanting() {
    const { size } = this.board.cards;
    if (!this.#isLive || this.tools.wanted === "" || this.#cursor === null || size >= MOST_SEARCHED) return false;
    return this.board.jobs.filter((job) => this.tools.matches(job)).length < ENOUGH;
  }

  /** Load a page of the list. Returns the cards that it added: none when another page was asked for meanwhile. */
  async #page(status, cursor = null) {
    const limit = this.tools.wanted === "" || cursor === null ? PAGE : SEARCHED;
    const { value, nextLink } = await this.#ask((this.#newest += 1), status, cursor, limit);
    if (value === null) return [];
    // Only the link's cursor is used: its origin is the gateway's public URL, which may differ from this page's.
    this.#cursor = nextLink ? new URL(nextLink).searchParams.get("cursor") : null;
    if (cursor === null) this.#clear();
    const added = value.filter((state) => !this.board.cards.has(state.jobId)).map((state) => this.#card(state));
    this.list.append(...added.map((card) => card.node));
    for (const card of added) this.#watchRow(card);
    this.#told();
    if (cursor === null) this.#search();
    return added;
  }

  /** Look for jobs that were started meanwhile; rows that nobody sees get their state from here too. */
  async #refresh() {
    try {
      const { value } = await this.#ask(this.#newest, this.at("status").value);
      if (value === null) return;
      const before = [...this.board.cards];
      this.board.cards.clear();
      for (const state of value) if (!before.some(([id]) => id === state.jobId)) this.#watchRow(this.#card(state));
      for (const [id, card] of before) this.board.cards.set(id, card);
      for (const state of value) {
        const card = this.board.cards.get(state.jobId);
        if (state.at <= card.job.state.at) continue; // its stream is ahead of the list
        card.job.know(state);
        this.board.paintSoon(card);
      }
      this.#told();
    } catch (error) {
      say(this.at("all-words"), error.message);
    }
  }

  /** A page of the list; without a value when another page was asked for since `request`. */
  async #ask(request, status, cursor = null, limit = PAGE) {
    const query = new URLSearchParams({ limit, ...(status && { status }), ...(cursor && { cursor }) });
    const answer = await this.operator.ask(`jobs?${query}`);
    return request === this.#newest ? answer : { value: null };
  }

  #card(state) {
    const job = new Job(state.jobId);
    job.know(state);
    const card = new Card(job, this.operator, { actions: () => this.#actions(job) });
    card.compact = true;
    this.board.cards.set(job.id, card);
    this.board.paintSoon(card);
    return card;
  }

  #watchRow(card) {
    this.observer.observe(card.node);
  }

  #told() {
    const { size } = this.board.cards;
    const isAll = this.#cursor === null;
    const jobs = size === 0 ? "No jobs" : isAll ? count(size, "job") : `Newest ${size} jobs of more`;
    const searched = `Looked through ${isAll ? "all" : "the newest"} ${count(size, "job")}${isAll ? "" : " of more"}`;
    say(this.at("all-words"), this.tools.wanted === "" || size === 0 ? jobs : searched);
    say(this.at("all-time"), ` · ${moment(Date.now())}`);
    show(this.at("more"), this.#cursor !== null);
    show(this.at("follow-all"), size > 1);
    this.board.paintSoon();
  }

  #painted() {
    if (this.#isLive) this.tools.arrange(this.list, [...this.board.cards.values()]);
  }

  // The stream over the rows that are seen

  #scrolled(rows) {
    for (const { target, isIntersecting } of rows) this.#seen[isIntersecting ? "add" : "delete"](target.dataset.job);
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#stream(), SETTLED);
  }

  #turned(id) {
    const card = this.board.cards.get(id);
    if (card.isOpen) card.open();
    this.board.paintSoon(card);
    this.#stream();
  }

  /** Of jobs that have ended the log is read once, for how long they took. */
  #stream() {
    const wanted = [...this.board.cards.values()].filter(
      ({ job, isOpen }) => (isOpen || this.#seen.has(job.id)) && !(job.ended && (job.seq > 0 || job.phase === "gone")),
    );
    const jobs = this.#isLive ? wanted.slice(0, MOST_STREAMED).map((card) => card.job) : [];
    const key = jobs.map((job) => job.id).join();
    if (key === this.#streamed) return;
    this.#streamed = key;
    this.board.stream.open(jobs);
    if (jobs.length === 0) this.board.connect("idle");
  }

  // Actions

  #actions(job) {
    const problem = element("span", { class: "problem", role: "alert" });
    const press = () => this.#stop(job, stop, problem);
    const stop = element("button", { type: "button", class: "stop", click: press }, "Stop watching");
    const follow = () => this.follow([job.id], { focus: true });
    return [element("button", { type: "button", click: follow }, "Follow"), stop, problem];
  }

  /** The first press asks, since there is no way back; the second stops. */
  async #stop(job, button, problem) {
    if (button.dataset.asked === undefined) {
      button.dataset.asked = "";
      return say(button, "Really stop? The copy itself goes on.");
    }
    button.disabled = true;
    try {
      await this.operator.ask(`jobs/${job.id}`, "DELETE");
      button.remove();
    } catch (error) {
      say(problem, error.message);
      button.disabled = false;
    }
  }

  async #watch(event) {
    event.preventDefault();
    const monitorUrl = this.at("monitor").value.trim();
    const label = this.at("monitor-label").value.trim();
    try {
      await this.operator.ask("jobs", "POST", { monitorUrl, ...(label && { label }) });
    } catch (error) {
      return say(this.at("monitor-problem"), error.message);
    }
    say(this.at("monitor-problem"), "");
    this.at("monitor-form").reset();
    await this.#refresh();
  }
}
