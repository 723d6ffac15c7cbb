// How a job ended: the result, or the reason and what to do next.

import { element, foreign } from "./dom.js";
import { BASE } from "./lines.js";
import { advice, CANCELLED, isCopy } from "./words.js";

export function verdict({ phase, state }) {
  if (phase === "gone") {
    return [
      element("h4", {}, "Unknown job"),
      element(
        "p",
        {},
        "Its id is wrong or incomplete, or the job ended so long ago that it was deleted. ",
        `This page asks only the gateway at ${BASE}.`,
      ),
    ];
  }
  if (phase === "completed") {
    const leftOut = state.error ? [element("h4", {}, "What was left out"), ...reasons(state.error)] : [];
    return [element("h4", {}, isCopy(state) ? "The new item" : "The result"), element("p", {}, ...item(state)), ...leftOut];
  }
  const { error } = state;
  return [
    element("h4", {}, heading(phase, state)),
    ...reasons(error),
    // Of a job that was stopped, the reason says it.
    phase === "stopped" ? "" : element("p", { class: "advice" }, element("strong", {}, "What to do: "), advice(state)),
  ];
}

function heading(phase, state) {
  const what = isCopy(state) ? "copy" : "operation";
  if (phase === "stopped") return "Watching was stopped";
  if (state.error.origin === "gateway") return `The gateway lost track of the ${what}`;
  return `The ${what} ${CANCELLED.includes(state.status) ? "was cancelled" : "failed"}`;
}

function item(state) {
  const { resource, resourceId } = state;
  if (!isCopy(state) && !resource) return [resourceId ? element("code", {}, foreign(resourceId)) : "Done. Upstream named no result."];
  if (resource) return [element("code", { class: "resource" }, resource)];
  if (!resourceId) return ["Upstream did not name the new item. Look in the target folder."];
  return ["Its id is ", element("code", { class: "resource" }, resourceId), "; upstream did not name its drive."];
}

function reasons(error) {
  const details = (error.details ?? []).map((detail) =>
    element(
      "li",
      {},
      foreign([detail.message, detail.target].filter(Boolean).join(": ")),
      " ",
      detail.code ? element("code", {}, foreign(detail.code)) : null,
    ),
  );
  return [
    element("p", { class: "message" }, foreign(error.message), " ", element("code", {}, foreign(error.code))),
    details.length > 0 ? element("ul", {}, ...details) : "",
  ];
}
