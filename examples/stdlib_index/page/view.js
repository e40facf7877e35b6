// Shows a job and its connection. Takes all it shows as arguments and keeps nothing but the elements.
//
// Never decides what is true, never speaks to the network or to storage, and never sets markup from text.

import { CANCEL_PATH, audit, over } from "./job.js";
import { Rows, element } from "./rows.js";
import { CANCEL, CANCEL_STAGE, CONNECTION, ENDING, HINT, LATE, STATUS, clock, continuity, count, duration, failure, plural, silence } from "./words.js";

const $ = (id) => document.getElementById(id);
const rows = new Rows($("rows"));
let announced = { words: "", tens: 0 };

export function begin() {
  rows.clear();
  announced = { words: "", tens: 0 };
  $("result-part").hidden = true;
  $("unreadable").open = false;
}

export function focusJob() {
  $("job").focus({ preventScroll: false });
}

/** The one line that says what happened; it is never empty, so that nothing moves when it changes. */
export function showNotice(sentence, tone = "plain") {
  setText("notice", sentence ?? HINT);
  $("notice").dataset.tone = sentence ? tone : "plain";
  if (sentence) announce(sentence);
}

export function showConnection({ state, sentence = null }) {
  const [word, meaning] = CONNECTION[state];
  $("connection").dataset.state = state;
  $("connection").title = sentence ?? meaning;
  if ($("connection-word").textContent !== word) {
    $("connection-word").textContent = word;
    if (state !== "idle" && state !== "finished") announce(`${word}. ${sentence ?? meaning}`);
  }
  document.body.dataset.stale = String(isStale(state));
}

const isStale = (state) => ["reconnecting", "degraded", "refused"].includes(state);

/** `neglected` is null for a job that is looked after; `state` is the connection's; `asked` is true from the press of Cancel until the ledger has it. */
export function showJob(job, { cursor, state, asked, neglected, settling = false }) {
  const stale = isStale(state);
  const percent = Math.floor(job.progress ?? 0);
  const late = neglected?.silentMs !== undefined || (stale && job.silentAt !== null);
  const status = job.unknown ? "Unknown task" : late && job.status === "running" ? LATE : STATUS[job.status ?? "none"];
  document.body.dataset.status = job.status ?? "none";
  document.body.dataset.late = String(late);
  setText("status", status);
  setText("percent", percent);
  setText("stage", over(job) ? "" : (job.stage ?? ""));
  setText("message", neglected ? silence(neglected) : messageOf(job, stale));
  setText("task-id", job.taskId);
  $("task").hidden = false;
  $("bar").setAttribute("aria-valuenow", percent);
  $("bar-fill").style.transform = `translateX(${(job.progress ?? 0) - 100}%)`;
  for (const field of document.querySelectorAll("[data-count]")) {
    const number = (job.result ?? job.data)?.[field.dataset.count];
    field.textContent = typeof number === "number" ? count(number) : "–";
  }
  showCancel(job, asked, stale);
  $("failure-part").hidden = job.status !== "failed" && job.status !== "lost";
  setText("failure", failure(job.error));
  showResult(job);
  showRows(job, cursor, settling);
  document.title = titleOf(job, percent, status);
  announceProgress(job, percent, status);
}

function messageOf(job, stale) {
  if (job.unknown) return "There is nothing to show for it.";
  if (over(job)) return ENDING["forced" in job.cancels ? "forced" : job.status];
  const told = job.message ?? (job.status === "pending" ? waitingFor(job) : "");
  return stale && job.updatedAt ? `As of ${clock(job.updatedAt)}: ${told}` : told;
}

function waitingFor({ data }) {
  return data?.ahead ? `${plural(data.ahead, "job")} ahead of it.` : "A worker takes it up in a moment.";
}

function titleOf(job, percent, status) {
  const name = "Standard library index";
  if (status === LATE) return `${status} · ${name}`;
  if (job.status === "running") return `${percent} % ${job.stage ?? ""} · ${name}`;
  return job.status && job.status !== "pending" ? `${STATUS[job.status]} · ${name}` : name;
}

// ── parts of the job ─────────────────────────────────────────────────────────────────────────────────────────────────

function showCancel(job, asked, stale) {
  const stages = Object.keys(job.cancels);
  $("cancel-part").hidden = stages.length === 0 && !asked;
  const last = ["too_late", "refused", "forced", "honoured"].find((stage) => stage in job.cancels) ?? "honoured";
  const items = [...CANCEL_PATH.slice(0, 2), last].map((stage) => {
    const reached = job.cancels[stage];
    const item = element("li", { text: CANCEL_STAGE[stage], data: { stage, reached: Boolean(reached) } });
    const detail = reached ? [reached.seq && `#${reached.seq}`, clock(reached.at)].filter(Boolean).join(" · ") : "not yet";
    item.append(element("span", { text: detail }));
    return item;
  });
  $("receipts").replaceChildren(...items);
  const newest = [last, "delivered", "recorded"].find((stage) => stage in job.cancels);
  setText("cancel-sentence", newest ? CANCEL[newest] : stale ? CANCEL.asked : "");
}

function showResult({ status, result }) {
  if (status !== "completed" || !result || !$("result-part").hidden) return;
  const { files, lines, functions, seconds, largest = [], failed_files: unreadable = [], failed = 0 } = result;
  const size = `${plural(files, "file")}, ${plural(lines, "line")} and ${plural(functions, "function")}`;
  setText("result-summary", `${size}, read in ${duration(seconds * 1000)}.`);
  $("largest").replaceChildren(
    ...largest.map((module) => {
      const row = element("tr");
      const head = element("th", { text: module.module });
      head.scope = "row";
      row.append(head, ...["lines", "classes", "functions"].map((key) => element("td", { text: count(module[key]) })));
      return row;
    }),
  );
  $("unreadable").hidden = failed === 0;
  setText("unreadable-summary", `${plural(failed, "file")} could not be parsed`);
  $("unreadable-list").replaceChildren(...unreadable.map(({ file, reason }) => element("li", { text: `${file}: ${reason}` })));
  $("result-part").hidden = false;
}

function showRows(job, cursor, settling) {
  rows.draw(job.rows, { settling });
  $("rows").hidden = job.rows.length === 0;
  $("rows-empty").hidden = job.rows.length > 0;
  setText("continuity", continuity(audit(job)));
  $("cursor").hidden = !cursor;
  if (cursor) setText("cursor-value", `${cursor.epoch} : ${cursor.seq}`);
}

// ── for those who listen ─────────────────────────────────────────────────────────────────────────────────────────────

/** Every tenth of the way and every change of status is said aloud; each transition would be noise. */
function announceProgress(job, percent, words) {
  const tens = Math.floor(percent / 10) * 10;
  if (words === announced.words && tens <= announced.tens) return;
  announced = { words, tens };
  announce(words === STATUS.running ? `${words}, ${percent} percent, ${job.stage ?? ""}` : words);
}

function announce(sentence) {
  $("announcer").textContent = sentence;
}

function setText(id, text) {
  const field = $(id);
  const words = String(text);
  if (field.textContent !== words) field.textContent = words;
}
