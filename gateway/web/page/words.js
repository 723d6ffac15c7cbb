// What a person is told: statuses, times, and what to do about an error.

const ADVICE = {
  accessdenied: "The token that started it may not read the item, or not write to the target. Use one that may.",
  activitylimitreached: "Upstream throttles. Start the copy again later.",
  cancelled: "Somebody, or upstream itself, cancelled it. Start the copy again if it is still wanted.",
  deletefailed: "Look into the target folder: something that had to go may still be there.",
  generalexception: "Upstream itself failed. Look into the target folder for what is there already, then start it again.",
  itemnotfound: "Check the item and the target: one of them is not there any more.",
  namealreadyexists:
    "Send another name, or add ?@microsoft.graph.conflictBehavior=rename to the copy request, and start it again.",
  quotalimitreached: "Make room in the target drive, or choose another one, and start it again.",
  servicenotavailable: "Upstream was away. Start the copy again later.",
};
const OTHERWISE = "Look into the target folder for what is there already, and start the copy again when the cause is gone.";

export function advice(error) {
  if (error.origin === "gateway") return "Do not start it again before you have looked: there could be two copies then.";
  return ADVICE[error.code.toLowerCase().split("_")[0]] ?? OTHERWISE;
}

/** inProgress as "In progress"; upstream may use words that nobody knows yet. */
export function spoken(word) {
  const words = word.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function percent(value) {
  return `${Number.isInteger(value) ? value : value.toFixed(1)} %`;
}

export function duration(ms) {
  const seconds = ms / 1000;
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** As exact as an estimate is. */
export function left(ms) {
  const seconds = ms / 1000;
  if (seconds < 5) return "a few seconds left";
  if (seconds < 55) return `about ${Math.ceil(seconds / 5) * 5} s left`;
  if (seconds < 3300) return `about ${Math.max(Math.round(seconds / 60), 1)} min left`;
  const hours = Math.max(Math.round(seconds / 3600), 1);
  return `about ${hours} ${hours === 1 ? "hour" : "hours"} left`;
}

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A moment of today by its time, of another day with it. */
export function moment(ms) {
  const date = new Date(ms);
  return date.toDateString() === new Date().toDateString() ? TIME.format(date) : DAY.format(date);
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}
