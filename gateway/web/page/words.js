// Texts for the user: statuses, times, and advice about errors.

const RUNNING = [
  ["notStarted", "inProgress", "waiting", "updating", "deletePending", "cancelPending"],
  ["running", "accepted", "active", "draft", "activating", "unspecified", "unknown", "unknownFutureValue"],
].flat();
export const COMPLETED = ["completed", "partiallySucceeded", "completedWithError", "completedWithErrors"];
export const CANCELLED = ["cancelled", "canceled"];
export const STATUSES = [
  ...RUNNING,
  ...COMPLETED,
  ...["failed", "deleteFailed", ...CANCELLED, "submissionFailed", "invalid"],
];

const CANCELLED_ADVICE = "A user or upstream cancelled it. Start it again if it is still wanted.";
const ADVICE = {
  accessdenied: "The token may not do this. Start it again with a token that may.",
  activitylimitreached: "Upstream is throttling requests. Start it again later.",
  canceled: CANCELLED_ADVICE,
  cancelled: CANCELLED_ADVICE,
  servicenotavailable: "Upstream was unavailable. Start it again later.",
};
const COPY_ADVICE = {
  ...ADVICE,
  accessdenied: "The token may not read the item or may not write to the target. Start the copy with a token that may.",
  deletefailed: "Look in the target folder: an item that was to be deleted may still be there.",
  generalexception: "Upstream failed. Look in the target folder for items copied so far, then start the copy again.",
  itemnotfound: "Check the item and the target: one of them no longer exists.",
  namealreadyexists:
    "Send another name, or add ?@microsoft.graph.conflictBehavior=rename to the request, and start the copy again.",
  quotalimitreached: "Free space in the target drive or choose another drive, then start the copy again.",
};
const OTHERWISE = "See what it has done so far, and start it again when the cause is gone.";
const COPY_OTHERWISE =
  "Look in the target folder for items copied so far, and start the copy again when the cause is gone.";

/** What to do about the error of a job that failed. */
export function advice(state) {
  const { code, origin } = state.error;
  const known = code.toLowerCase().split("_")[0];
  if (isCopy(state)) {
    if (origin === "gateway") return "Check the target folder before you start it again: there could be two copies.";
    return COPY_ADVICE[known] ?? COPY_OTHERWISE;
  }
  if (origin === "gateway") return "Look for its result before you start it again: it may have gone on.";
  return ADVICE[known] ?? OTHERWISE;
}

/** inProgress as "In progress"; upstream may add statuses that are unknown today. */
export function spoken(word) {
  const words = word.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function isCopy({ operation }) {
  return operation === "ItemCopy";
}

/** The word for a job that has no label: what it does, such as "Archive team". */
export function jobWord(state) {
  if (state === null) return "Job";
  return isCopy(state) ? "Copy" : spoken(state.operation);
}

export function percent(value) {
  return `${Number.isInteger(value) ? value : value.toFixed(1)} %`;
}

export function duration(ms) {
  if (ms > 0 && ms < 100) return `${Math.ceil(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** How long ago, as the age of something that has ended. */
export function ago(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ago` : `${count(Math.floor(hours / 24), "day")} ago`;
}

/** The estimated time left, rounded to the precision of an estimate; a range where the estimates lie apart. */
export function left([least, most]) {
  const [low, high] = [rounded(least), rounded(most)];
  if (most < 5000) return "a few seconds left";
  if (low === high || most < 1.25 * least) return `about ${rounded((least + most) / 2)} left`;
  const [number, unit] = low.split(" ");
  return high.endsWith(unit) ? `${number} to ${high} left` : `${low} to ${high} left`;
}

function rounded(ms) {
  const seconds = ms / 1000;
  if (seconds < 55) return `${Math.max(Math.ceil(seconds / 5) * 5, 5)} s`;
  if (seconds < 3300) return `${Math.max(Math.round(seconds / 60), 1)} min`;
  const hours = Math.max(Math.round(seconds / 3600), 1);
  return `${hours} ${hours === 1 ? "hour" : "hours"}`;
}

const TROUBLES = {
  throttled: ["Graph throttles"],
  unreachable: ["Graph gives no usable answer"],
  doubted: ["Graph says that it does not know this job", "the gateway makes sure"],
  tokenRequired: ["Graph asks for a token", "the gateway waits until a fresh one is handed in"],
};

/** Why nothing moves, and when the gateway looks again; without what it does, where there is little room. */
export function troubleWords({ code, retryAt }, now, isShort = false) {
  const [why, does] = TROUBLES[code] ?? [spoken(code)];
  const words = does && !isShort ? `${why}; ${does}` : why;
  if (!retryAt || code === "tokenRequired") return words;
  const wait = Math.ceil((Date.parse(retryAt) - now) / 1000) * 1000;
  return wait > 0 ? `${words}; next look in ${duration(wait)}` : `${words}; the next look is due`;
}

/** Whether a job waits until somebody hands in a token. */
export function needsToken(job) {
  return !job.ended && job.state?.trouble?.code === "tokenRequired";
}

/** The word for a job: its status, or what the page knows besides. */
export function stateWord({ phase, state }) {
  if (phase === "gone") return "Unknown";
  if (phase === "stopped") return "Stopped";
  return state === null ? "Connecting" : spoken(state.status);
}

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** The time of a moment today; date and time of a moment on another day. */
export function moment(ms) {
  const date = new Date(ms);
  return date.toDateString() === new Date().toDateString() ? TIME.format(date) : DAY.format(date);
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}
