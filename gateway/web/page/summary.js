// All followed jobs together: the counts, and a bar that is green, red, grey and blue.

import { element, say } from "./dom.js";
import { group } from "./tools.js";
import { count, percent, stateWord } from "./words.js";

const GROUPS = ["running", "completed", "failed", "stopped", "unknown"];
const STACKED = ["completed", "failed", "stopped", "running"]; // ended jobs fill their part, running ones as far as they are

export function counts(jobs) {
  const words = GROUPS.map((name) => [jobs.filter((job) => group(job) === name).length, name]);
  return words
    .filter(([number]) => number > 0)
    .map(([number, name]) => `${number} ${name}`)
    .join(" · ");
}

/** How far all jobs are together, in percent; an ended one counts as 100. */
export function overall(jobs) {
  return jobs.reduce((sum, job) => sum + filled(job), 0) / jobs.length;
}

/** The page's title for these jobs. */
export function title(jobs) {
  if (jobs.some((job) => !job.ended)) return percent(Math.round(overall(jobs)));
  if (jobs.length > 1) return counts(jobs);
  return jobs[0].phase === "gone" ? "Unknown job" : stateWord(jobs[0]);
}

export function paintSummary(words, bar, jobs) {
  const told = `${count(jobs.length, "job")}: ${counts(jobs)}`;
  say(words, told);
  bar.setAttribute("aria-label", told);
  if (bar.children.length === 0) bar.append(...STACKED.map((name) => element("span", { "data-group": name })));
  for (const part of bar.children) {
    const sum = jobs.filter((job) => group(job) === part.dataset.group).reduce((all, job) => all + filled(job), 0);
    part.style.width = `${sum / jobs.length}%`;
  }
}

function filled(job) {
  return job.ended ? 100 : (job.state?.percentageComplete ?? 0);
}
