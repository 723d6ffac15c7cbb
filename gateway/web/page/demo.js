// A copy at a simulated upstream, started from the page.

import { element, say, show } from "./dom.js";
import { BASE } from "./lines.js";

const SECONDS = 20; // how long the copy takes
const SCENARIOS = {
  copy: "that succeeds",
  phases: "that waits in between",
  throttled: "that Graph throttles",
  "failed-late": "that fails at 56 %",
  "failed-details": "that fails, with details",
  cancelled: "that is cancelled",
};

/** Offer it in `form`. `follow` takes the ids of jobs. */
export function offerDemo(form, follow) {
  const choice = element(
    "select",
    { "aria-label": "Demo copy" },
    ...Object.entries(SCENARIOS).map(([value, words]) => element("option", { value }, words)),
  );
  const button = element("button", {}, "Start a demo copy");
  const problem = element("p", { class: "problem", role: "alert" });
  form.append(button, choice, problem);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    say(problem, "");
    try {
      follow([await start(choice.value)], { focus: true });
    } catch (error) {
      say(problem, error.message);
    }
    button.disabled = false;
  });
  show(form, true);
}

/** Start a copy that plays a scenario. Returns its job's id, or throws an Error with words for the user. */
async function start(scenario) {
  const name = `Demo copy ${SCENARIOS[scenario]}`;
  const answer = await fetch(`${BASE}v1.0/me/drive/items/${scenario}/copy?seconds=${SECONDS}&steps=${SECONDS}`, {
    method: "POST",
    headers: { Authorization: "Bearer demo", "Content-Type": "application/json", "Gateway-Label": name },
    body: JSON.stringify({ parentReference: { path: "/drive/root:/Documents" }, name }),
  }).catch(() => {
    throw new Error("The gateway does not answer. Try again.");
  });
  const body = await answer.json();
  if (answer.status === 202) return body.jobId;
  throw new Error(body.error?.message ?? `The gateway answered ${answer.status}.`);
}
