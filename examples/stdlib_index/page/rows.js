// The list of transitions: one line for each number, newest first, and a line of words where something happened.
//
// Draws what `job.js` holds and nothing else; keeps what it has drawn, so a row is made once.

import { MOST_ROWS } from "./job.js";
import { CANCEL_STAGE, STATUS, clock, gap, jump, recovery } from "./words.js";

const WORDS = { recovered: recovery, jumped: jump, gap, snapshot: ({ seq }) => `The state as of sequence ${seq}.` };

export class Rows {
  constructor(list) {
    this.list = list;
    this.newest = null;
  }

  clear() {
    this.list.replaceChildren();
    this.newest = null;
  }

  /** `settling` is true for rows that were there before, which need no entrance. */
  draw(rows, { settling = false } = {}) {
    const fresh = rows.slice(rows.indexOf(this.newest) + 1);
    if (fresh.length === 0) return;
    const items = fresh.map((row) => (row.kind === "transition" ? transitionItem(row) : wordItem(row)));
    if (!settling) for (const item of items) item.classList.add("fresh");
    this.list.prepend(...items.reverse());
    this.newest = rows.at(-1);
    while (this.list.childElementCount > MOST_ROWS) this.list.lastElementChild.remove();
  }
}

export function element(name, { className = "", text = null, data = {} } = {}) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  Object.assign(made.dataset, data);
  return made;
}

function transitionItem({ seq, at, status, progress, stage, message, replayed, cancel }) {
  const item = element("li", { className: replayed ? "caught-up" : "", data: { seq, status } });
  const what = cancel ? `Cancel ${CANCEL_STAGE[cancel].toLowerCase()}` : (status === "running" && stage) || STATUS[status];
  const percent = progress === null ? "" : `${Math.floor(progress)} %`;
  const named = element("span", { className: "what", text: what });
  if (status === "running" && message) named.append(element("small", { text: message }));
  const how = element("span", { className: "how", text: replayed ? "caught up" : clock(at) });
  item.append(
    element("span", { className: "seq", text: seq }),
    named,
    how,
    element("span", { className: "share", text: percent }),
  );
  if (message) item.title = message;
  return item;
}

function wordItem(row) {
  return element("li", { className: "word", text: WORDS[row.kind](row), data: { kind: row.kind } });
}
