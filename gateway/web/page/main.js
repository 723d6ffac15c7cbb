// The page: the jobs that are followed, the one stream they share, and when what is painted.

import { Card } from "./card.js";
import { code, say, show } from "./dom.js";
import { fromFragment, parse, short, toFragment } from "./ids.js";
import { GatewayClock, Job } from "./job.js";
import { BASE, firstCopy } from "./lines.js";
import { AllJobs, Operator } from "./operator.js";
import { Stream } from "./stream.js";
import { count, percent, spoken } from "./words.js";

const MOST_JOBS = 200; // that the gateway puts on one stream
const TELL_EACH = 3; // ends at once that are announced one by one
const CONNECTIONS = {
  idle: "",
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  ended: "Ended",
  refused: "Refused",
};

const at = (id) => document.getElementById(id);
const clock = new GatewayClock();
const operator = new Operator();
const cards = new Map(); // by the job's id, in the order they are shown

const stream = new Stream(BASE, {
  event(job, name, seq, state) {
    clock.hear(state.at, Date.now());
    job.take(name, seq, state);
    changed(job);
  },
  lost(jobs) {
    for (const job of jobs) {
      job.lose();
      changed(job);
    }
  },
  connection,
});

// What is followed

/** Follow these jobs too, and have them in the page's address. */
function follow(ids, { focus = false } = {}) {
  const room = MOST_JOBS - running().length;
  const added = ids.filter((id) => !cards.has(id));
  const taken = added.slice(0, Math.max(room, 0));
  const before = [...cards];
  cards.clear();
  for (const id of taken) cards.set(id, new Card(new Job(id), operator, () => leave(id)));
  at("jobs").prepend(...[...cards.values()].map((card) => card.node));
  for (const [id, card] of before) cards.set(id, card);
  if (taken.length > 0) settle();
  if (cards.size === 1) cards.values().next().value.open();
  if (taken.length > 1) announce(`Following ${count(taken.length, "copy", "copies")}`);
  if (focus) {
    paint(); // what is hidden takes no focus
    cards.get(ids[0])?.title.focus();
  }
  return added.length - taken.length;
}

function leave(id) {
  const following = [...cards.keys()];
  const next = following[following.indexOf(id) + 1] ?? following[following.indexOf(id) - 1];
  drop([id]);
  (next ? cards.get(next).title : at("follow")).focus();
}

function drop(ids) {
  for (const id of ids) {
    cards.get(id)?.node.remove();
    cards.delete(id);
  }
  settle();
}

/** After the set of jobs changed: the address, the stream from where each job stands, and what is on the page. */
function settle() {
  const fragment = toFragment([...cards.keys()]);
  if (location.hash !== fragment) history.replaceState(null, "", fragment || location.pathname + location.search);
  stream.open(running());
  paintSoon(...cards.values());
}

function running() {
  return [...cards.values()].map((card) => card.job).filter((job) => !job.ended);
}

function fromAddress() {
  const wanted = fromFragment(location.hash);
  drop([...cards.keys()].filter((id) => !wanted.includes(id)));
  complain(wanted, follow(wanted), []);
}

function complain(ids, leftOut, strange) {
  const told = [];
  if (strange.length > 0) {
    const some = strange.slice(0, 3).map((word) => `“${word.length > 40 ? `${word.slice(0, 40)}…` : word}”`);
    const others = strange.length > 3 ? " and others" : "";
    told.push(`No job in ${some.join(", ")}${others}: a job’s URL ends in /jobs/ and its id.`);
  }
  if (leftOut > 0) told.push(`One stream carries ${MOST_JOBS} running jobs, so ${leftOut} were left out.`);
  if (ids.length === 0 && strange.length === 0) told.push("Paste a job’s URL or its id first.");
  say(at("follow-problem"), told.join(" "));
  at("follow").toggleAttribute("aria-invalid", told.length > 0);
}

// What is painted: at most once a frame, and only what changed

const dirty = new Set();
const over = [];
let due = false;

function changed(job) {
  if (job.ended) over.push(job);
  paintSoon(cards.get(job.id));
}

function paintSoon(...some) {
  for (const card of some) dirty.add(card);
  if (due) return;
  due = true;
  if (document.hidden) setTimeout(paint, 250); // there are no frames, but a title
  else requestAnimationFrame(paint);
}

function paint() {
  due = false;
  const now = clock.now(Date.now());
  for (const card of dirty) card?.paint(now);
  dirty.clear();
  if (over.length > 0) {
    const told = over.splice(0);
    if (told.length > TELL_EACH) announce(`${told.length} copies ended`);
    else announce(told.map((job) => `Copy ${short(job.id)}: ${spoken(job.state?.status ?? "unknown")}`).join(". "));
    if (running().length === 0) stop();
  }
  paintSummary();
}

function stop() {
  stream.close();
  connection("ended");
}

function paintSummary() {
  const jobs = [...cards.values()].map((card) => card.job);
  show(at("welcome"), jobs.length === 0);
  show(at("jobs"), jobs.length > 0);
  show(at("summary"), jobs.length > 1);
  if (jobs.length === 0) {
    document.title = "Copy gateway";
    connection("idle");
    return;
  }
  const phases = Map.groupBy(jobs, (job) => job.phase);
  const many = (phase) => phases.get(phase)?.length ?? 0;
  const whole = jobs.reduce((sum, job) => sum + (job.ended ? 100 : (job.state?.percentageComplete ?? 0)), 0) / jobs.length;
  const parts = [
    [many("running") + many("unknown"), "running"],
    [many("completed"), "completed"],
    [many("failed"), "failed"],
    [many("gone"), "unknown"],
  ].filter(([number]) => number > 0);
  const told = parts.map(([number, word]) => `${number} ${word}`).join(" · ");
  say(at("summary-words"), `${count(jobs.length, "copy", "copies")}: ${told}`);
  at("summary-bar").value = whole;
  show(at("summary-tidy"), jobs.some((job) => job.ended) && jobs.some((job) => !job.ended));
  document.title = `${jobs.every((job) => job.ended) ? outcome(jobs, told) : percent(Math.round(whole))} · Copy gateway`;
}

function outcome(jobs, told) {
  if (jobs.length > 1) return told;
  return jobs[0].phase === "gone" ? "Unknown job" : spoken(jobs[0].state.status);
}

function connection(state, words = CONNECTIONS[state]) {
  if (at("connection").dataset.state === state && at("connection-words").textContent === words) return;
  const before = at("connection").dataset.state;
  at("connection").dataset.state = state;
  show(at("connection"), state !== "idle");
  say(at("connection-words"), words);
  if (state === "reconnecting" || state === "refused") announce(words);
  else if (state === "live" && before === "reconnecting") announce("Live again");
}

function announce(words) {
  say(at("announcer"), words);
}

// What a person and the browser do

at("first-copy").append(code(firstCopy(), "the line that starts a copy"));
at("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment is the jobs'
  at("follow").focus();
});
at("follow-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { ids, strange } = parse(at("follow").value);
  complain(ids, follow(ids, { focus: ids.length === 1 }), strange);
  if (strange.length === 0) at("follow").value = "";
  if (ids.length !== 1 || strange.length > 0) at("follow").focus();
});
at("follow").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("follow-form").requestSubmit();
});
at("summary-tidy").addEventListener("click", () => {
  drop([...cards.values()].filter((card) => card.job.ended).map((card) => card.job.id));
  at("follow").focus();
});
new AllJobs(operator, {
  follow,
  changed: () => cards.forEach((card) => card.look()),
});

addEventListener("hashchange", fromAddress);
addEventListener("online", () => stream.reopen());
addEventListener("pagehide", () => stream.close()); // a page that is kept for the way back holds no stream
addEventListener("pageshow", (event) => event.persisted && settle());
document.addEventListener("visibilitychange", () => due && paint());
setInterval(() => {
  if (!document.hidden) paintSoon(...[...cards.values()].filter((card) => card.job.phase === "running"));
}, 1000);

if (location.hash.length > 1) fromAddress();
