/**
 * What is known of one task: cursor, state, gaps, jumps. Pure.
 *
 *     needed   ── asked() ────────▶ asked
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
import type { Change, Cursor, JumpReason, Liveness, Status, Task, Transition } from "../types.js";
import type { Message } from "./effects.js";

export type Phase = "needed" | "asked" | "understood" | "held" | "streaming" | "ended";
/** What to tell, in order; the state is `stream.task` as of each. */
export type Told = { task: Task; change: Change };

export function isEnded(task: { status: string }): boolean {
  const { status } = task;
  return status === "completed" || status === "failed" || status === "cancelled" || status === "lost";
}

function livenessOf(status: Status): Liveness | null {
  if (status === "lost") return "lost";
  return status === "running" || status === "cancelling" ? "live" : null;
}

function blank(taskId: string): Task {
  return {
    task_id: taskId, status: "pending", seq: 0, attempt: 0, progress: null, stage: null, message: null,
    data: null, result: null, error: null, cancel: null, liveness: null,
  }; // prettier-ignore
}

export class Stream {
  phase: Phase = "needed";
  askedAs = 0;
  /** Not before this time. */
  askAt = 0;
  waitUntil = 0;
  /** Answers in a row that nobody knows the id. */
  unknowns = 0;
  refusals = 0;
  private _epoch = "";
  private _jump: { from: Cursor | null; reason: JumpReason } | null = null;

  constructor(
    readonly taskId: string,
    /** What was told. */
    public cursor: Cursor | null,
    public task: Task | null,
    public mode: "all" | "latest",
  ) {}

  /** What to show the server: nothing, when the state as of the cursor was not kept. */
  get after(): Cursor | null {
    return this.cursor !== null && (this.task !== null || this._bare) ? this.cursor : null;
  }

  /** Go on after a cursor without having its state: as the application asked. */
  trust(cursor: Cursor): void {
    this.cursor = cursor;
    this.task = null;
    this._bare = true;
  }
  private _bare = false;

  asked(wireId: number): Message {
    this.phase = "asked";
    this.askedAs = wireId;
    this._jump = null;
    const wanted: Message = { task_id: this.taskId };
    if (this.after !== null) wanted.after = this.after;
    return wanted;
  }

  interrupt(): void {
    if (this.phase !== "ended") this.phase = "needed";
  }

  /** Takes a message about this task. `unknown` is set when nobody knows the id and the server does not wait. */
  receive(message: Message): { told: Told[]; unknown: boolean } {
    const { phase } = this;
    let told: Told[] = [];
    if (phase === "understood" && message.type === "subscribed") return this._subscribed(message);
    if (phase === "held" || phase === "streaming") {
      if (message.type === "subscribed") return this._subscribed(message);
      if (message.type === "transition") told = this._transition(message as Transition);
      else if (message.type === "snapshot") told = this._snapshot(message.task);
      else if (message.type === "liveness") told = this._live(message.liveness, message.beat_age_ms);
      else if (message.type === "notice") this._jump = { from: message.from || null, reason: message.reason };
    }
    return { told, unknown: false };
  }

  /** Takes a whole state that was asked for over HTTP. */
  polled(task: Task, epoch: string): Told[] {
    const before = this.cursor;
    this._epoch = epoch;
    if (before !== null && before.epoch === epoch && task.seq <= before.seq && this.task !== null) return this._known();
    const follows = before === null || (before.epoch === epoch && task.seq <= before.seq + 1);
    return this._accept(task, follows ? null : before!.epoch === epoch ? "polled" : "other_epoch", before);
  }

  private _subscribed(message: Message): { told: Told[]; unknown: boolean } {
    this._epoch = message.epoch;
    if (message.verdict === "unknown") {
      // A task of which something was seen cannot be waited for: the ledger was rewound to before it.
      if (!message.waiting || (this.cursor !== null && this.cursor.seq > 0)) {
        this.phase = "needed";
        return { told: [], unknown: true };
      }
      this.phase = "held";
      this.unknowns = 0;
      this.cursor = { epoch: message.epoch, seq: 0 };
      this._bare = true;
      return { told: [], unknown: false };
    }
    this.phase = "streaming";
    this.unknowns = this.refusals = 0;
    if (message.recovered && this.after !== null) {
      const { seq } = this.after;
      this.cursor = { epoch: message.epoch, seq };
      if (message.verdict === "ended" && seq >= message.seq) return { told: this._known(), unknown: false };
    }
    return { told: this._live("live", null), unknown: false };
  }

  /** Nothing newer is there: over, if the end was seen; when it was seen without its state, that is asked for. */
  private _known(): Told[] {
    if (this.task !== null && isEnded(this.task)) {
      this.phase = "ended";
    } else if (this._bare && this.phase === "streaming") {
      this._bare = false;
      this.cursor = null;
      this.phase = "needed";
    }
    return [];
  }

  private _transition(step: Transition): Told[] {
    const seen = this.cursor === null ? 0 : this.cursor.seq;
    if (step.seq <= seen) return this._known();
    if (step.seq !== seen + 1) {
      this.phase = "needed"; // a hole: what was missed is asked for
      return [];
    }
    const task = Object.assign({}, this.task || blank(this.taskId)) as Task;
    const names = ["status", "seq", "attempt", "progress", "stage", "message", "data", "result", "error", "cancel", "forced"];
    for (const name of names) {
      const value = (step as Message)[name];
      if (value !== undefined) (task as Message)[name] = value;
    }
    task.updated_at = step.at;
    // A cancel request is a client's word; everything else is a sign of life of the worker.
    if (!step.cancel || step.cancel.stage !== "recorded" || task.liveness === null) {
      task.liveness = livenessOf(task.status);
      delete task.beat_age_ms;
    }
    return this._take(task, { kind: "transition", transition: step });
  }

  private _snapshot(task: Task): Told[] {
    const before = this.cursor;
    const jump = this._jump;
    this._jump = null;
    if (jump !== null) return this._accept(task, jump.reason, jump.from || before);
    if (before === null) return this._accept(task, null, null);
    if (before.epoch !== this._epoch) return this._accept(task, "other_epoch", before);
    if (this.after === null) return this._accept(task, task.seq === before.seq ? null : "not_kept", before);
    if (task.seq <= before.seq) return this._known();
    if (task.seq === before.seq + 1) return this._accept(task, null, null);
    return this._accept(task, this.mode === "latest" ? "latest" : "unannounced", before);
  }

  private _live(liveness: Liveness, beatAgeMs: number | null): Told[] {
    const { task } = this;
    if (task === null || task.liveness === null || task.liveness === liveness || isEnded(task)) return [];
    this.task = Object.assign({}, task, { liveness, beat_age_ms: beatAgeMs });
    return [{ task: this.task, change: { kind: "liveness" } }];
  }

  private _accept(task: Task, reason: JumpReason | null, from: Cursor | null): Told[] {
    const to = { epoch: this._epoch, seq: task.seq };
    return this._take(task, reason === null ? { kind: "snapshot" } : { kind: "jumped", from, to, reason });
  }

  private _take(task: Task, change: Change): Told[] {
    this.task = task;
    this.cursor = { epoch: this._epoch, seq: task.seq };
    this._bare = false;
    this.unknowns = this.refusals = 0;
    if (isEnded(task)) this.phase = "ended";
    else if (this.phase === "held") this.phase = "streaming";
    return [{ task, change }];
  }
}
