// What the page knows of one job: its small state, and the rows of its ledger as they came in. Pure.
//
// Grows only from what the stream tells; never asks the network, never touches the page, never invents a number.

import { ended } from "./stream.js";

export const MOST_ROWS = 2_000;

// The stages a cancel can reach, in the order the page shows them.
export const CANCEL_PATH = ["recorded", "delivered", "honoured"];

export function newJob(taskId) {
  return {
    taskId,
    status: null, // null: nothing has come in yet
    seq: 0,
    progress: null,
    stage: null,
    message: null,
    data: null,
    result: null,
    error: null,
    cancels: {}, // cancel stage → {seq, at}
    startedAt: null,
    updatedAt: null,
    away: false, // from its connection
    silentAt: null, // the last sign of life of a worker that is late; null: it is not late
    rows: [], // {kind: "transition" | "snapshot" | "jumped" | "gap" | "recovered", …}
    repeats: 0,
    gaps: 0,
    unknown: false,
  };
}

const SMALL = ["status", "progress", "stage", "message"];
const LARGE = ["data", "result", "error"];

/** Take over one of the stream's tellings; returns whether there was anything for the job in it. */
export function learn(job, told) {
  const learning = LEARNINGS[told.what];
  if (!learning) return false;
  learning(job, told);
  if (job.rows.length > MOST_ROWS) job.rows.splice(0, job.rows.length - MOST_ROWS);
  return true;
}

const LEARNINGS = {
  transition(job, { transition, replayed }) {
    const { seq, at, cancel } = transition;
    for (const name of SMALL) job[name] = transition[name];
    for (const name of LARGE) if (name in transition) job[name] = transition[name];
    job.seq = seq;
    job.updatedAt = at;
    if (transition.status === "running") job.startedAt ??= at;
    if (cancel) job.cancels[cancel.stage] = { seq, at };
    if (cancel?.stage !== "recorded") job.silentAt = null; // all but a client's wish is a sign of life
    const { status, progress, stage, message } = transition;
    job.rows.push({ kind: "transition", seq, at, status, progress, stage, message, replayed, cancel: cancel?.stage ?? null });
  },

  snapshot(job, { task, silentAt }) {
    for (const name of [...SMALL, ...LARGE]) job[name] = task[name];
    job.seq = task.seq;
    job.updatedAt = task.updated_at;
    job.silentAt = silentAt;
    job.startedAt = task.created_at;
    if (task.cancel) job.cancels[task.cancel.stage] = { seq: task.cancel.seq, at: task.updated_at };
    job.rows.push({ kind: "snapshot", seq: task.seq, status: task.status });
  },

  liveness(job, { silentAt }) {
    job.silentAt = silentAt;
  },

  /** Late stays late while nobody can say otherwise; a new subscription tells again of a worker that is late. */
  state(job, { state }) {
    const away = state === "connecting" || state === "reconnecting";
    if (job.away && !away) job.silentAt = null;
    job.away = away;
  },

  recovered(job, { awayMs, resumed, caughtUp, seq }) {
    job.rows.push({ kind: "recovered", awayMs, resumed, caughtUp, seq });
  },

  jumped(job, { reason, from, to }) {
    job.rows.push({ kind: "jumped", reason, from, to });
  },

  gap(job, { expected, got }) {
    job.gaps += 1;
    job.rows.push({ kind: "gap", expected, got });
  },

  repeat(job) {
    job.repeats += 1;
  },

  unknown(job) {
    job.unknown = true;
  },
};

const PATIENCE_MS = 30_000;

/** Why another job may be wanted: {silentMs} of a worker that is late, {waitingSince} of a job not taken up; or null. */
export function neglect(job, now) {
  if (over(job)) return null;
  if (job.silentAt !== null) return { silentMs: now - job.silentAt };
  const waits = job.status === "pending" && now - Date.parse(job.updatedAt) > PATIENCE_MS;
  return waits ? { waitingSince: job.updatedAt } : null;
}

export const over = (job) => job.unknown || ended(job.status);

/** What the rows themselves show: {first, last, holes, repeats}; a jump that was told in words begins a new run. */
export function audit(job) {
  let first = null;
  let last = null;
  let holes = 0;
  let { repeats } = job;
  for (const row of job.rows) {
    if (row.kind === "snapshot" || row.kind === "jumped") {
      first = null;
      last = row.seq ?? null;
    }
    if (row.kind !== "transition") continue;
    if (last !== null && row.seq > last + 1) holes += row.seq - last - 1;
    if (last !== null && row.seq <= last) repeats += 1;
    first ??= row.seq;
    last = row.seq;
  }
  return { first, last, holes, repeats };
}
