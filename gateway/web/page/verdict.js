// How a job ended: the result, or the reason and what to do next.

import { element, foreign } from "./dom.js";
import { BASE } from "./lines.js";
import { advice, CANCELLED } from "./words.js";

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
    return [element("h4", {}, "The new item"), element("p", {}, ...item(state)), ...leftOut];
  }
  const { error } = state;
  return [
    element("h4", {}, heading(phase, state)),
    ...reasons(error),
    // Of a job that was stopped, the reason says it.
    phase === "stopped" ? "" : element("p", { class: "advice" }, element("strong", {}, "What to do: "), advice(error)),
  ];
}

function heading(phase, { status, error }) {
  if (phase === "stopped") return "Watching was stopped";
  if (error.origin === "gateway") return "The gateway lost track of the copy";
  return CANCELLED.includes(status) ? "The copy was cancelled" : "The copy failed";
}

function item({ resource, resourceId }) {
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
