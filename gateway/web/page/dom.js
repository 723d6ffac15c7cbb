// Create and change elements, without ever turning a string into markup.

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== false && value !== null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Set a node's text if it differs: 200 cards are checked every second, and few of them change. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

/** Code with a copy button. Browsers offer no clipboard to pages over http, except from localhost: then without it. */
export function code(text, label) {
  const pre = element("pre", {}, element("code", {}, text));
  if (!navigator.clipboard) return element("div", { class: "code" }, pre);
  const button = element("button", { type: "button", class: "copy", "aria-label": `Copy: ${label}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      say(button, "Copied");
    } catch {
      getSelection().selectAllChildren(pre);
      say(button, "Selected");
    }
    setTimeout(() => say(button, "Copy"), 2000);
  });
  return element("div", { class: "code" }, pre, button);
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
