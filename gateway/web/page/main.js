// The page: the followed jobs, the address that names them, and the way to the operator's view.

import { AllJobs } from "./alljobs.js";
import { Board } from "./board.js";
import { Card } from "./card.js";
import { offerDemo } from "./demo.js";
import { code, say, show } from "./dom.js";
import { fromFragment, isMonitor, parse, toFragment } from "./ids.js";
import { GatewayClock, Job } from "./job.js";
import { BASE, firstCopy } from "./lines.js";
import { Notifier } from "./notify.js";
import { Operator } from "./operator.js";
import { paintSummary, title } from "./summary.js";
import { Tools } from "./tools.js";
import { count, stateWord } from "./words.js";

const MOST_JOBS = 200; // running jobs; the gateway's limit for one stream
const MOST_CARDS = 5; // jobs that stand open; more are one line each
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
const AWAY = ["reconnecting", "busy"];

const at = (id) => document.getElementById(id);
const clock = new GatewayClock();
const operator = new Operator();
const board = new Board(clock, {
  painted,
  connected: (word, before) => isOperator() || connected(word, before),
});
const { cards } = board;
const tools = new Tools(at("tools"), { changed: () => board.paintSoon() });
const notifier = new Notifier(at("notify"));
const allJobs = new AllJobs(operator, clock, {
  follow,
  changed: () => cards.forEach((card) => card.look()),
  connected: (word, before) => isOperator() && connected(word, before),
});

// Followed jobs

/** Follow more jobs and add them to the page's address. Returns how many were beyond the limit and not added. */
function follow(ids, { focus = false } = {}) {
  const room = MOST_JOBS - board.running.length;
  const added = ids.filter((id) => !cards.has(id));
  const taken = added.slice(0, Math.max(room, 0));
  const before = [...cards];
  cards.clear();
  for (const id of taken) cards.set(id, new Card(new Job(id), operator, { leave: () => leave(id) }));
  at("jobs").prepend(...[...cards.values()].map((card) => card.node));
  for (const [id, card] of before) cards.set(id, card);
  if (isOperator()) history.pushState(null, "", address()); // the way back leads to the list
  if (taken.length > 0) settle();
  turn();
  if (cards.size === 1) cards.values().next().value.open();
  if (taken.length > 1) announce(`Following ${count(taken.length, "job")}`);
  if (focus) {
    board.paint(); // a hidden element takes no focus
    cards.get(ids[0])?.title.focus();
  }
  return added.length - taken.length;
}

function leave(id) {
  const following = [...at("jobs").children].filter((row) => !row.hidden).map((row) => row.dataset.job);
  const next = following[following.indexOf(id) + 1] ?? following[following.indexOf(id) - 1];
  drop([id]);
  (next ? cards.get(next).title : at("follow")).focus();
}

function drop(ids) {
  remove(ids);
  settle();
}

function remove(ids) {
  for (const id of ids) {
    cards.get(id)?.node.remove();
    cards.delete(id);
  }
}

/** After the set of jobs changed: update the address, reopen the stream from each job's position, and render. */
function settle() {
  at("to-jobs").href = toFragment([...cards.keys()]) || "#"; // without a fragment it would load the page anew
  if (!isOperator() && location.hash !== toFragment([...cards.keys()])) history.replaceState(null, "", address());
  for (const card of cards.values()) card.compact = cards.size > MOST_CARDS;
  board.stream.open(board.running);
  board.paintSoon(...cards.values());
}

function address() {
  return toFragment([...cards.keys()]) || location.pathname + location.search;
}

function isOperator() {
  return location.hash === "#operator";
}

function fromAddress() {
  turn();
  if (isOperator()) return;
  const wanted = fromFragment(location.hash);
  remove([...cards.keys()].filter((id) => !wanted.includes(id)));
  complain(follow(wanted), []);
  settle(); // not before: a reload in between would find the address without jobs
}

/** Show the view that the address names. */
function turn() {
  const isAll = isOperator();
  show(at("jobs-view"), !isAll);
  show(at("operator-view"), isAll);
  for (const [id, isHere] of [["to-jobs", !isAll], ["to-operator", isAll]]) {
    if (isHere) at(id).setAttribute("aria-current", "page");
    else at(id).removeAttribute("aria-current");
  }
  allJobs.shown = isAll;
  const word = isAll ? allJobs.connection : board.connection;
  connected(word, word);
  board.paintSoon();
}

function complain(excess, words, ...problems) {
  const strange = words.filter((word) => !isMonitor(word));
  if (strange.length < words.length) {
    problems.push(
      "That is Graph’s own monitor URL, a secret that this page does not follow. Take the job’s URL from the gateway’s " +
        "response, or have the operator watch the monitor URL.",
    );
  }
  if (strange.length > 0) {
    const some = strange.slice(0, 3).map((word) => `“${word.length > 40 ? `${word.slice(0, 40)}…` : word}”`);
    const others = strange.length > 3 ? " and others" : "";
    problems.push(`No job in ${some.join(", ")}${others}: a job’s URL ends in /jobs/ and its id.`);
  }
  if (excess > 0) problems.push(`One stream carries at most ${MOST_JOBS} running jobs; ${excess} not added.`);
  say(at("follow-problem"), problems.join(" "));
  at("follow").toggleAttribute("aria-invalid", problems.length > 0);
}

// Rendering

function painted(ended) {
  if (ended.length > 0) {
    notifier.tell(ended);
    if (ended.length > ANNOUNCED_SINGLY) announce(`${ended.length} jobs ended`);
    else announce(ended.map((job) => `${job.name}: ${stateWord(job)}`).join(". "));
    if (board.running.length === 0) {
      board.stream.close();
      board.connect("ended");
    }
  }
  const { jobs } = board;
  show(at("welcome"), jobs.length === 0);
  show(at("jobs"), jobs.length > 0);
  show(at("summary"), jobs.length > 1);
  show(at("tools"), jobs.length > MOST_CARDS);
  notifier.offer(board.running.length > 0);
  if (jobs.length === 0) board.connect("idle");
  else paintSummary(at("summary-words"), at("summary-bar"), jobs);
  tools.arrange(at("jobs"), [...cards.values()], jobs.length > MOST_CARDS);
  show(at("summary-tidy"), jobs.some((job) => job.ended) && jobs.some((job) => !job.ended));
  const page = isOperator() ? "All jobs · " : jobs.length === 0 ? "" : `${title(jobs)} · `;
  document.title = `${page}Copy gateway`;
}

function connected(word, before) {
  at("connection").dataset.state = word;
  show(at("connection"), word !== "idle");
  say(at("connection-words"), CONNECTIONS[word]);
  if (word === before) return;
  if ([...AWAY, "refused"].includes(word)) announce(CONNECTIONS[word]);
  else if (word === "live" && AWAY.includes(before)) announce("Live again");
}

function announce(words) {
  say(at("announcer"), words);
}

// Events of the user and the browser

at("first-copy").append(code(firstCopy(), "the command that starts a copy"));
if (document.body.dataset.upstream === "simulated") offerDemo(at("demo"), follow);
at("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment holds the followed jobs
  (isOperator() ? at("operator-title") : at("follow")).focus();
});
at("follow-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { ids, strange } = parse(at("follow").value);
  const none = ids.length + strange.length === 0 ? ["Paste a job’s URL or its id first."] : [];
  complain(follow(ids, { focus: ids.length === 1 }), strange, ...none);
  if (strange.every(isMonitor)) at("follow").value = "";
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
at("jobs").addEventListener("turned", (event) => board.paintSoon(cards.get(event.target.dataset.job)));

// Events that are replayed come late: until a new one, only a response tells the gateway's time, to the second.
fetch(BASE, { method: "HEAD" })
  .then(({ headers }) => clock.hear(headers.get("Date"), Date.now()))
  .catch(() => {});
addEventListener("hashchange", fromAddress);
addEventListener("pageshow", (event) => event.persisted && settle());
show(at("unscripted"), false);
show(at("main"), true);
if (location.hash.length > 1) fromAddress();
else turn();
