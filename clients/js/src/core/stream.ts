/**
 * What is known of one task: cursor, state, gaps, jumps. Pure.
 *
 *     needed   ── asks ───────────▶ asked
 *     asked    ── reply ──────────▶ understood
 *     understood ── subscribed ───▶ held (nobody knows the task yet) | streaming | ended | needed (ask again)
 *     held     ── transition ─────▶ streaming
 *     streaming ── terminal ──────▶ ended
 *     streaming ── gap ───────────▶ needed
 *     all but ended ── connection lost, refused for now ──▶ needed
 *
 * What comes in `needed` and `asked` belongs to an earlier subscription and is ignored; the cursor then fetches it
 * again. So every sequence is told once, in order, or a jump says that it was not.
 */
import type { Change, Cursor, JumpReason, Liveness, Task, Transition } from "../types.js";
import type { Message } from "./effects.js";

export interface Stream {
  taskId: string;
  mode: "all" | "latest";
  phase: "needed" | "asked" | "understood" | "held" | "streaming" | "ended";
  /** What was told; with `task` null: what was told by an earlier program, or the application says so (`bare`). */
  cursor: Cursor | null;
  task: Task | null;
  bare: boolean;
  /** Wire id of the last `subscribe`. */
  asked: number;
  /** Not before this time. */
  askAt: number;
  waitUntil: number;
  /** Answers in a row that nobody knows the id. */
  unknowns: number;
  refusals: number;
  epoch: string;
  jump: { from: Cursor | null; reason: JumpReason } | null;
}

/** Told of each change, when `stream.task` and `stream.cursor` are as after it. */
export type Tell = (stream: Stream, change: Change) => void;

export function isEnded(task: { status: string }): boolean {
  return /^(completed|failed|cancelled|lost)$/.test(task.status);
}

/** What to show the server: nothing, when the state as of the cursor was not kept. */
export function afterOf(stream: Stream): Cursor | null {
  return stream.task || stream.bare ? stream.cursor : null;
}

/** Takes a message about this task. Whether nobody knows the id, and the server does not wait for it. */
export function receive(stream: Stream, message: Message, tell: Tell): boolean {
  const { phase } = stream;
  if (phase === "understood" || phase === "held" || phase === "streaming") {
    if (message.type === "subscribed") return subscribed(stream, message, tell);
    if (phase === "understood") return false;
    if (message.type === "transition") transition(stream, message as Transition, tell);
    else if (message.type === "snapshot") snapshot(stream, message.task, tell);
    else if (message.type === "liveness") live(stream, message.liveness, message.beat_age_ms, tell);
    else stream.jump = message as Stream["jump"];
  }
  return false;
}

/** Takes a whole state that was asked for over HTTP; null: it is as before. */
export function polled(stream: Stream, task: Task | null, epoch: string, tell: Tell): void {
  const before = stream.cursor;
  stream.epoch = epoch;
  stream.unknowns = 0;
  const same = before !== null && before.epoch === epoch;
  if (task === null || (same && stream.task && task.seq <= before.seq)) nothingNewer(stream);
  else accept(stream, task, !before || (same && task.seq <= before.seq + 1) ? null : same ? "polled" : "other_epoch", before, tell);
}

function subscribed(stream: Stream, message: Message, tell: Tell): boolean {
  const { epoch } = message;
  const after = afterOf(stream);
  stream.epoch = epoch;
  stream.jump = null;
  if (message.verdict === "unknown") {
    // A task of which something was seen cannot be waited for: the ledger was rewound to before it.
    const held = message.waiting && !(stream.cursor && stream.cursor.seq > 0);
    stream.phase = held ? "held" : "needed";
    if (held) {
      stream.unknowns = 0;
      stream.cursor = { epoch, seq: 0 };
      stream.bare = true;
    }
    return !held;
  }
  stream.phase = "streaming";
  stream.unknowns = stream.refusals = 0;
  if (message.recovered && after) {
    stream.cursor = { epoch, seq: after.seq };
    if (message.verdict === "ended" && after.seq >= message.seq) {
      nothingNewer(stream);
      return false;
    }
  }
  live(stream, "live", null, tell);
  return false;
}

/** Over, if the end was seen; when it was seen without its state, that is asked for. */
function nothingNewer(stream: Stream): void {
  if (stream.task) {
    if (isEnded(stream.task)) stream.phase = "ended";
  } else if (stream.phase === "streaming") {
    stream.bare = false;
    stream.cursor = null;
    stream.phase = "needed";
  }
}

function transition(stream: Stream, step: Transition, tell: Tell): void {
  const seen = stream.cursor ? stream.cursor.seq : 0;
  if (step.seq <= seen) return nothingNewer(stream);
  if (step.seq !== seen + 1) {
    stream.phase = "needed"; // a hole: what was missed is asked for
    return;
  }
  const task: Message = { task_id: stream.taskId, data: null, result: null, error: null, cancel: null, liveness: null };
  Object.assign(task, stream.task, step, { updated_at: step.at });
  delete task.type;
  delete task.at;
  // A cancel request is a client's word; everything else is a sign of life of the worker.
  if (!step.cancel || step.cancel.stage !== "recorded" || !task.liveness) {
    const { status } = step;
    task.liveness = status === "lost" ? status : status === "running" || status === "cancelling" ? "live" : null;
    delete task.beat_age_ms;
  }
  take(stream, task as Task, { kind: "transition", transition: step }, tell);
}

function snapshot(stream: Stream, task: Task, tell: Tell): void {
  const { cursor, jump } = stream;
  let reason: JumpReason | null = null;
  stream.jump = null;
  if (jump) reason = jump.reason;
  else if (cursor) {
    if (cursor.epoch !== stream.epoch) reason = "other_epoch";
    else if (!afterOf(stream)) reason = task.seq === cursor.seq ? null : "not_kept";
    else if (task.seq <= cursor.seq) return nothingNewer(stream);
    else if (task.seq > cursor.seq + 1) reason = stream.mode === "latest" ? "latest" : "unannounced";
  }
  accept(stream, task, reason, (jump && jump.from) || cursor, tell);
}

function live(stream: Stream, liveness: Liveness, beatAgeMs: number | null, tell: Tell): void {
  const { task } = stream;
  if (!task || !task.liveness || task.liveness === liveness || isEnded(task)) return;
  stream.task = Object.assign({}, task, { liveness, beat_age_ms: beatAgeMs });
  tell(stream, { kind: "liveness" });
}

function accept(stream: Stream, task: Task, reason: JumpReason | null, from: Cursor | null, tell: Tell): void {
  const to = { epoch: stream.epoch, seq: task.seq };
  take(stream, task, reason ? { kind: "jumped", from, to, reason } : { kind: "snapshot" }, tell);
}

function take(stream: Stream, task: Task, change: Change, tell: Tell): void {
  stream.task = task;
  stream.cursor = { epoch: stream.epoch, seq: task.seq };
  stream.bare = false;
  stream.unknowns = stream.refusals = 0;
  if (isEnded(task)) stream.phase = "ended";
  else if (stream.phase === "held") stream.phase = "streaming";
  tell(stream, change);
}
