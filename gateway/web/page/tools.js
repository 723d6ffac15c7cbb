// Tools for a list of cards: filter by state, search by name or id, sort.

import { element, say, show } from "./dom.js";
import { needsToken } from "./words.js";

const GROUPS = { unknown: "running", gone: "unknown" }; // by phase; the others are their own
const RANKS = ["failed", "unknown", "running", "stopped", "completed"];
const SORTS = {
  failures: ["Failures first", (one, other) => rank(one) - rank(other)],
  added: ["Newest first", () => 0],
  name: ["Name", (one, other) => one.name.localeCompare(other.name)],
  progress: ["Least progress", (one, other) => progress(one) - progress(other)],
  age: ["Longest running", (one, other) => start(one) - start(other)],
};

export class Tools {
  #group = "all";
  #buttons = new Map();

  /** `node` takes the tools. `sort` is the first order. `changed` is called when the list has to be arranged anew. */
  constructor(node, { filters = true, sort = "failures", changed }) {
    this.changed = changed;
    this.filters = element("div", { class: "filters", role: "group", "aria-label": "Filter by state" });
    const id = `${node.id}-search`;
    this.search = element("input", {
      ...{ id, type: "search", autocomplete: "off", spellcheck: "false", placeholder: "Name or id" },
      input: changed,
    });
    const sorts = Object.entries(SORTS).map(([value, [name]]) =>
      element("option", { value, selected: value === sort }, name),
    );
    this.sort = element("select", { "aria-label": "Sort", change: changed }, ...sorts);
    this.nothing = element("p", { class: "hint", role: "status" });
    if (filters) node.append(this.filters);
    const label = element("label", { for: id, class: "unseen" }, "Search by name or id");
    node.append(label, this.search, this.sort, this.nothing);
  }

  /**
   * Show in `list` the cards that are asked for, in order; the others are hidden. With
   * `isOn` false all of them, failures first.
   */
  arrange(list, cards, isOn = true) {
    this.#count(cards.map(({ job }) => group(job)));
    for (const { node, job } of cards) {
      const isShown = !isOn || (this.matches(job) && (this.#group === "all" || group(job) === this.#group));
      show(node, isShown);
    }
    const isEmpty = isOn && cards.length > 0 && cards.every(({ node }) => node.hidden);
    say(this.nothing, isEmpty ? "No job here matches." : "");
    const [, compare] = SORTS[isOn ? this.sort.value : "failures"];
    order(list, cards.toSorted((one, other) => compare(one.job, other.job)));
  }

  /** What is searched for; empty if nothing is. */
  get wanted() {
    return this.search.value.trim().toLowerCase();
  }

  matches({ name, id }) {
    return [name, id].some((text) => text.toLowerCase().includes(this.wanted));
  }

  #count(groups) {
    const number = (name) => (name === "all" ? groups.length : groups.filter((one) => one === name).length);
    for (const name of ["all", ...RANKS]) {
      if (!this.#buttons.has(name)) {
        const button = element("button", { type: "button", "data-group": name, click: () => this.#choose(name) });
        this.#buttons.set(name, button);
        this.filters.append(button);
      }
      const button = this.#buttons.get(name);
      say(button, name === "all" ? `All ${number(name)}` : `${number(name)} ${name}`);
      show(button, number(name) > 0 || name === this.#group);
      button.setAttribute("aria-pressed", String(name === this.#group));
    }
  }

  #choose(name) {
    this.#group = name;
    this.changed();
  }
}

/** A job's state as the page counts it: running, completed, failed, stopped or unknown. */
export function group({ phase }) {
  return GROUPS[phase] ?? phase;
}

/** Put the cards' nodes in order, without moving those in place: a moved node would lose the focus. */
export function order(list, cards) {
  const focused = document.activeElement;
  cards.forEach(({ node }, place) => {
    if (list.children[place] !== node) list.insertBefore(node, list.children[place] ?? null);
  });
  if (focused !== document.activeElement) focused.focus({ preventScroll: true });
}

/** A job that waits for somebody's token comes before those that run by themselves. */
function rank(job) {
  return RANKS.indexOf(needsToken(job) ? "unknown" : group(job));
}

function progress(job) {
  return job.ended ? 101 : (job.state?.percentageComplete ?? 0);
}

function start(job) {
  return job.ended ? Infinity : (job.changes[0]?.at ?? 0);
}
