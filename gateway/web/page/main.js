// The page: the followed jobs, the one stream that they share, and the rendering.

import { Card } from "./card.js";
import { code, say, show } from "./dom.js";
import { fromFragment, parse, short, toFragment } from "./ids.js";
import { GatewayClock, Job } from "./job.js";
import { BASE, firstCopy } from "./lines.js";
import { AllJobs, Operator } from "./operator.js";
import { Stream } from "./stream.js";
import { count, percent, spoken } from "./words.js";

const MOST_JOBS = 200; // running jobs; the gateway's limit for one stream
const ANNOUNCED_SINGLY = 3; // jobs that end in one frame and are announced by name
const CONNECTIONS = {
  idle: "",
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  busy: "Busy, trying again",
  ended: "Ended",
  refused: "The gateway refuses these ids",
};

const at = (id) => document.getElementById(id);
const clock = new GatewayClock();
const operator = new Operator();
const cards = new Map(); // by job id, in display order

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

// Followed jobs

/** Follow more jobs and add them to the page's address. Returns how many were beyond the limit and not added. */
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
    paint(); // a hidden element takes no focus
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

/** After the set of jobs changed: update the address, reopen the stream from each job's position, and render. */
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

function complain(ids, excess, strange) {
  const problems = [];
  if (strange.length > 0) {
    const some = strange.slice(0, 3).map((word) => `“${word.length > 40 ? `${word.slice(0, 40)}…` : word}”`);
    const others = strange.length > 3 ? " and others" : "";
    problems.push(`No job in ${some.join(", ")}${others}: a job’s URL ends in /jobs/ and its id.`);
  }
  if (excess > 0) problems.push(`One stream carries at most ${MOST_JOBS} running jobs; ${excess} not added.`);
  if (ids.length === 0 && strange.length === 0) problems.push("Paste a job’s URL or its id first.");
  say(at("follow-problem"), problems.join(" "));
  at("follow").toggleAttribute("aria-invalid", problems.length > 0);
}

// Rendering: at most once a frame, and only the cards that changed

const dirty = new Set();
const justEnded = [];
let due = false;

function changed(job) {
  if (job.ended) justEnded.push(job);
  paintSoon(cards.get(job.id));
}

function paintSoon(...some) {
  for (const card of some) dirty.add(card);
  if (due) return;
  due = true;
  if (document.hidden) setTimeout(paint, 250); // a hidden tab gets no frames, but its title still changes
  else requestAnimationFrame(paint);
}

function paint() {
  due = false;
  const now = clock.now(Date.now());
  for (const card of dirty) card?.paint(now);
  dirty.clear();
  if (justEnded.length > 0) {
    const ended = justEnded.splice(0);
    if (ended.length > ANNOUNCED_SINGLY) announce(`${ended.length} copies ended`);
    else announce(ended.map((job) => `Copy ${short(job.id)}: ${spoken(job.state?.status ?? "unknown")}`).join(". "));
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
  const inPhase = (phase) => phases.get(phase)?.length ?? 0;
  const percentages = jobs.map((job) => (job.ended ? 100 : (job.state?.percentageComplete ?? 0)));
  const overall = percentages.reduce((sum, value) => sum + value, 0) / jobs.length;
  const parts = [
    [inPhase("running") + inPhase("unknown"), "running"],
    [inPhase("completed"), "completed"],
    [inPhase("failed"), "failed"],
    [inPhase("gone"), "unknown"],
  ].filter(([number]) => number > 0);
  const counts = parts.map(([number, word]) => `${number} ${word}`).join(" · ");
  say(at("summary-words"), `${count(jobs.length, "copy", "copies")}: ${counts}`);
  at("summary-bar").value = overall;
  show(at("summary-tidy"), jobs.some((job) => job.ended) && jobs.some((job) => !job.ended));
  const title = jobs.every((job) => job.ended) ? outcome(jobs, counts) : percent(Math.round(overall));
  document.title = `${title} · Copy gateway`;
}

function outcome(jobs, counts) {
  if (jobs.length > 1) return counts;
  return jobs[0].phase === "gone" ? "Unknown job" : spoken(jobs[0].state.status);
}

function connection(state) {
  const words = CONNECTIONS[state];
  if (at("connection").dataset.state === state) return;
  const before = at("connection").dataset.state;
  at("connection").dataset.state = state;
  show(at("connection"), state !== "idle");
  say(at("connection-words"), words);
  if (["reconnecting", "busy", "refused"].includes(state)) announce(words);
  else if (state === "live" && ["reconnecting", "busy"].includes(before)) announce("Live again");
}

function announce(words) {
  say(at("announcer"), words);
}

// Events of the user and the browser

at("first-copy").append(code(firstCopy(), "the command that starts a copy"));
at("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment holds the followed jobs
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
addEventListener("pagehide", () => stream.close()); // a page in the back/forward cache holds no stream
addEventListener("pageshow", (event) => event.persisted && settle());
document.addEventListener("visibilitychange", () => due && paint());
setInterval(() => {
  if (!document.hidden) paintSoon(...[...cards.values()].filter((card) => card.job.phase === "running"));
}, 1000);

if (location.hash.length > 1) fromAddress();
