// The job ids in pasted text and in the fragment of the page's URL.

const ID = "[A-Za-z0-9_-]{22,64}"; // at least 128 random bits
const ALONE = new RegExp(`^${ID}$`);
const IN_URL = new RegExp(`(?:/jobs/|[?&#]job=|#)(${ID})(?![A-Za-z0-9_-])`, "g");

/** The ids in a string, each once and in order; `strange` are the words that contain no id. */
export function parse(text) {
  const ids = new Set();
  const strange = [];
  for (const raw of text.split(/[\s,;]+/)) {
    const word = raw.replace(/^["'<([]+|["'>)\].]+$/g, "");
    if (word === "" || /^location:$/i.test(word)) continue; // from the output of curl -i
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

/** The first and last four characters of an id, which are enough to tell ids apart. */
export function short(id) {
  return `${id.slice(0, 4)}…${id.slice(-4)}`;
}

/** Whether a word is a URL of Graph's own monitors: by its path, or by the credential in its query. */
export function isMonitor(word) {
  return /^https:\/\/[^/\s]+(?=\/)\S*(?:\/monitor\/|\/operations[/(]|[?&](?:tempauth|sig)=)/i.test(word);
}
