// Create and change elements, without ever turning a string into markup.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== false && value !== null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

export function shape(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** An icon of 12 by 12 units, drawn by one path; its button carries the name. */
export function icon(path) {
  return shape("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, shape("path", { d: path }));
}

/** A text of upstream's or a caller's. It may run from right to left and must not turn the words around it. */
export function foreign(text) {
  return element("bdi", {}, text);
}

/** Set a node's text if it differs: 200 cards are checked every second, and few of them change. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

/**
 * A button that puts a text on the clipboard. `label` says which text; `otherwise` is selected where that is refused.
 * Browsers offer no clipboard to pages over http, except from localhost: then null.
 */
export function clipboard(text, label, words, otherwise) {
  if (!navigator.clipboard) return null;
  const button = element("button", { type: "button", class: "clip", "aria-label": `${words}: ${label}` }, words);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      say(button, "In the clipboard");
    } catch {
      getSelection().selectAllChildren(otherwise);
      say(button, "Selected");
    }
    setTimeout(() => say(button, words), 2000);
  });
  return button;
}

export function code(text, label) {
  const pre = element("pre", {}, element("code", {}, text));
  return element("div", { class: "code" }, pre, clipboard(text, label, "To clipboard", pre));
}

/** Tabs by the ARIA practices: arrow keys move, Tab leaves. `parts` are [title, make]; a panel is built when shown. */
export function tabs(id, label, parts) {
  const panel = element("div", { role: "tabpanel", id: `${id}-panel` });
  const all = parts.map(([title], place) =>
    element(
      "button",
      { type: "button", role: "tab", id: `${id}-${place}`, "aria-controls": panel.id, click: () => choose(place) },
      title,
    ),
  );
  const list = element("div", { role: "tablist", "aria-label": label }, ...all);
  list.addEventListener("keydown", (event) => {
    const now = all.indexOf(document.activeElement);
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const place = (to + all.length) % all.length;
    choose(place);
    all[place].focus();
  });
  function choose(place) {
    for (const [at, tab] of all.entries()) {
      tab.setAttribute("aria-selected", String(at === place));
      tab.tabIndex = at === place ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", all[place].id);
    panel.replaceChildren(parts[place][1]());
  }
  choose(0);
  return element("div", { class: "tabs" }, list, panel);
}
