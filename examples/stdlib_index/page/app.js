// Wires the page together: buttons, the job on the server, the stream that follows it, and what survives a reload.

import { Connection } from "./connection.js";
import { learn, neglect, newJob, over } from "./job.js";
import * as memory from "./memory.js";
import { Stream } from "./stream.js";
import * as view from "./view.js";
import { CONNECTION, RESTORED, UNKNOWN, recovery } from "./words.js";

const SAVE_EVERY_MS = 250;
const LOOK_EVERY_MS = 1_000; // for how long a job has been silent by now
const $ = (id) => document.getElementById(id);

let settings = null; // {gateway, python}
let following = null; // {job, stream, connection, state, drawing, dirty}

// ── following a task ─────────────────────────────────────────────────────────────────────────────────────────────────

function follow(taskId, { fresh = false } = {}) {
  following?.connection.stop();
  if (following) memory.forget(following.job.taskId);
  const kept = fresh ? null : memory.recall(taskId);
  const job = kept?.job ?? newJob(taskId);
  const stream = new Stream({ taskId, cursor: kept?.cursor ?? null, fresh: fresh || kept?.fresh === true });
  const connection = new Connection({ url: settings.gateway, stream, told });
  following = { job, stream, connection, state: { state: "connecting" }, drawing: false, dirty: true };
  memory.putInAddress(taskId);
  view.begin();
  draw({ settling: true });
  connection.start();
}

function told(telling) {
  const { job } = following;
  learn(job, telling);
  const tell = TELLINGS[telling.what];
  if (tell) tell(telling);
  following.dirty = true;
  drawSoon();
}

const TELLINGS = {
  state(telling) {
    const before = following.state.state;
    const { state, sentence } = telling;
    following.state = telling;
    if (state === before) return;
    if (state === "refused") view.showNotice(sentence, "bad");
    else if (state === "reconnecting" || state === "degraded") view.showNotice(CONNECTION[state][1], "warn");
    else if (state === "live" && before === "degraded") view.showNotice(RESTORED, "good");
  },
  recovered: (telling) => view.showNotice(recovery(telling), "good"),
  unknown: () => view.showNotice(UNKNOWN, "bad"),
  problem: ({ error, final }) => view.showNotice(error.message, final ? "bad" : "warn"),
  receipt({ cancel }) {
    if (cancel?.stage === "too_late") following.job.cancels.too_late ??= { seq: null, at: null };
  },
};

// ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** At most once a frame, however many transitions came in; a hidden tab draws when it is looked at. */
function drawSoon() {
  if (following.drawing) return;
  following.drawing = true;
  requestAnimationFrame(() => draw());
}

function draw({ settling = false } = {}) {
  const { job, stream, state } = following;
  following.drawing = false;
  const asked = stream.cancelReason !== undefined;
  view.showConnection(state);
  const neglected = state.state === "live" ? neglect(job, Date.now()) : null; // else it is the page that hears nothing
  view.showJob(job, { cursor: stream.cursor, state: state.state, asked, neglected, settling });
  const running = !over(job) && state.state !== "refused";
  const cancelling = asked || job.status === "cancelling";
  $("cancel").hidden = job.unknown;
  $("cancel").disabled = cancelling || !running; // it keeps its place, so that no other button moves under the pointer
  $("cancel").textContent = cancelling && running ? "Cancelling …" : "Cancel";
  $("start").hidden = running && !neglected;
  $("start").textContent = running ? "Start another" : "Start again";
  $("start-missing").hidden = running;
  $("last").hidden = true;
}

function save() {
  if (!following?.dirty) return;
  following.dirty = false;
  const { job, stream } = following;
  memory.keep(job.taskId, { cursor: stream.cursor, fresh: stream.fresh, job });
}

// ── buttons ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function start(request) {
  const buttons = [$("start"), $("start-missing")];
  for (const button of buttons) button.disabled = true;
  view.showNotice(null);
  try {
    const answer = await fetch("/jobs", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request),
    });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error);
    follow(body.task_id, { fresh: true });
    view.focusJob();
  } catch (problem) {
    const words = problem instanceof TypeError ? "The example’s own server does not answer; is it running?" : problem.message;
    view.showNotice(words, "bad");
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

function cancel() {
  following.connection.happened({ kind: "cancel", reason: "the Cancel button was pressed" });
  drawSoon();
}

function followAddress() {
  const taskId = memory.taskInAddress();
  if (taskId && taskId !== following?.job.taskId) {
    view.showNotice(null);
    follow(taskId);
  }
}

// ── beginning ────────────────────────────────────────────────────────────────────────────────────────────────────────

async function begin() {
  $("start").addEventListener("click", () => start({}));
  $("start-missing").addEventListener("click", () => start({ folder: "missing" }));
  $("cancel").addEventListener("click", cancel);
  try {
    settings = await (await fetch("/settings")).json();
  } catch {
    view.showNotice("The example’s own server does not answer; is it running?", "bad");
    return;
  }
  $("python").textContent = `${settings.python}’s`;
  const last = memory.lastTask();
  $("last").hidden = last === null;
  $("last").addEventListener("click", () => follow(last));
  window.addEventListener("hashchange", followAddress);
  window.addEventListener("pagehide", save);
  setInterval(save, SAVE_EVERY_MS);
  setInterval(() => following && drawSoon(), LOOK_EVERY_MS);
  followAddress();
}

begin();
