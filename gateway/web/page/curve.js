// A curve of the percentage over time, from the points of a job's log.

import { element, say, shape, show } from "./dom.js";
import { duration, moment, percent } from "./words.js";

const SIDE = 100; // units of the drawing in both directions; the stylesheet gives its size
const LEAST_SPAN = 100; // ms; of less the axis could not tell the times apart
const SCALE = ["100 %", "50 %", "0 %"];

export class Curve {
  constructor() {
    this.line = shape("path", { class: "trace", "vector-effect": "non-scaling-stroke" });
    this.area = shape("path", { class: "area" });
    const lines = "M0 0H100M0 50H100M50 0V100";
    const grid = shape("path", { class: "grid", d: lines, "vector-effect": "non-scaling-stroke" });
    this.drawing = shape(
      "svg",
      { viewBox: `0 0 ${SIDE} ${SIDE}`, preserveAspectRatio: "none", role: "img" },
      grid,
      this.area,
      this.line,
    );
    this.times = [element("span"), element("span"), element("span")];
    this.node = element(
      "div",
      { class: "curve", hidden: true },
      element("div", { class: "scale", "aria-hidden": "true" }, ...SCALE.map((text) => element("span", {}, text))),
      this.drawing,
      element("div", { class: "times", "aria-hidden": "true" }, ...this.times),
    );
  }

  /** Draw `points`, `{at, percentage}` with times in ms, up to `until`, which is now or the job's end. */
  paint(points, until) {
    const start = points[0]?.at;
    const last = points.at(-1);
    const end = Math.max(until, last?.at);
    const isShown = points.length > 1 && last.percentage > points[0].percentage && end - start >= LEAST_SPAN;
    show(this.node, isShown);
    if (!isShown) return;
    const x = (at) => (SIDE * (at - start)) / (end - start);
    const path = [...points, { at: end, percentage: last.percentage }]
      .map(({ at, percentage }) => `${x(at).toFixed(2)} ${(SIDE - percentage).toFixed(2)}`)
      .join("L");
    this.line.setAttribute("d", `M${path}`);
    this.area.setAttribute("d", `M0 ${SIDE}L${path}L${SIDE} ${SIDE}Z`);
    const step = end - start < 10_000 ? 100 : 2000;
    const length = Math.round((end - start) / step) * step;
    say(this.times[0], moment(start));
    say(this.times[1], duration(length / 2));
    say(this.times[2], duration(length));
    const where = `${percent(last.percentage)} ${duration(length)} after the start at ${moment(start)}`;
    const told = `Percentage over time: ${where}`;
    if (this.drawing.getAttribute("aria-label") !== told) this.drawing.setAttribute("aria-label", told);
  }
}
