// What a person pastes, and what stands in the page's fragment, as ids of jobs.

const ID = "[A-Za-z0-9_-]{22,64}"; // at least 128 random bits
const ALONE = new RegExp(`^${ID}$`);
const IN_URL = new RegExp(`(?:/jobs/|[?&#]job=|#)(${ID})(?![A-Za-z0-9_-])`, "g");

/** The ids in a text, each once and in its order, and the words of it that hold none. */
export function parse(text) {
  const ids = new Set();
  const strange = [];
  for (const raw of text.split(/[\s,;]+/)) {
    const word = raw.replace(/^["'<([]+|["'>)\].]+$/g, "");
    if (word === "" || /^location:$/i.test(word)) continue; // a line of curl -i
    const found = ALONE.test(word) ? [word] : [...word.matchAll(IN_URL)].map((match) => match[1]);
    if (found.length === 0) strange.push(word);
    for (const id of found) ids.add(id);
  }
  return { ids: [...ids], strange };
}

export function fromFragment(hash) {
  return parse(hash.replace(/^#(?:jobs?=)?/, "")).ids;
}

export function toFragment(ids) {
  return ids.length === 0 ? "" : `#${ids.join(",")}`;
}

/** Ids are long, and their ends tell them apart. */
export function short(id) {
  return `${id.slice(0, 4)}…${id.slice(-4)}`;
}
