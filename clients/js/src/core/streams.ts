/** All that is watched: what to ask for, whom a message is for, who is gone, what a poll brings. Pure. */
import type { Cursor, Failure, Task, Timing } from "../types.js";
import { dictionary, failure, type Effect, type Message } from "./effects.js";
import { Memory } from "./memory.js";
import { Stream, isEnded, type Told } from "./stream.js";
import { backoffMs, earlier } from "./timing.js";

/** Of each with 128 characters of id and a cursor: a quarter of the largest frame. */
const TASKS_A_MESSAGE = 100;
const POLLED_TASKS = 100;
/** Subscriptions of one page are sent together: a mini-program may send about five frames a second. */
const GATHER_MS = 20;

export class Streams {
  readonly memory = new Memory();
  /** When what is kept has to be stored. */
  saveAt: number | null = null;
  private _streams = dictionary<Stream>();
  private _leaving = dictionary<true>();
  private _epoch: string | null = null;
  private _pollFrom = 0;

  constructor(
    private readonly _timing: Timing,
    private readonly _random: () => number,
    private readonly _unknownAnswers: number,
  ) {}

  get any(): boolean {
    return Object.keys(this._streams).length > 0;
  }

  /** The state as last told, and whether it is from before this program was started. */
  known(taskId: string): { task: Task; cursor: Cursor; stored: boolean } | null {
    const kept = this.memory.find(taskId);
    if (!(taskId in this._streams) || kept === null || kept.task === null) return null;
    return { task: kept.task, cursor: { epoch: kept.epoch, seq: kept.seq }, stored: kept.stored };
  }

  add(taskId: string, mode: "all" | "latest", after: Cursor | null | undefined, waitMs: number, now: number): void {
    const open = this._streams[taskId];
    if (open !== undefined) {
      if (open.mode === "latest" && mode === "all") {
        open.mode = mode;
        open.interrupt();
      }
      return;
    }
    const kept = after === undefined ? this.memory.find(taskId) : null;
    if (after !== undefined) this.memory.drop(taskId);
    const cursor = kept === null ? null : { epoch: kept.epoch, seq: kept.seq };
    const stream = new Stream(taskId, cursor, kept === null ? null : kept.task, mode);
    if (after) stream.trust(after);
    stream.askAt = now + GATHER_MS;
    stream.waitUntil = now + waitMs;
    this._streams[taskId] = stream;
    delete this._leaving[taskId];
  }

  remove(taskId: string): void {
    const stream = this._streams[taskId];
    if (stream === undefined) return;
    if (stream.phase !== "needed" && stream.phase !== "ended") this._leaving[taskId] = true;
    delete this._streams[taskId];
  }

  /** The connection is gone. */
  interrupt(): void {
    this._leaving = dictionary();
    this._each((stream) => stream.interrupt());
  }

  welcomed(epoch: string): void {
    this._epoch = epoch;
  }

  messages(now: number, nextId: () => number): Message[] {
    const messages: Message[] = [];
    const leaving = Object.keys(this._leaving);
    for (let at = 0; at < leaving.length; at += TASKS_A_MESSAGE) {
      messages.push({ type: "unsubscribe", id: nextId(), task_ids: leaving.slice(at, at + TASKS_A_MESSAGE) });
    }
    this._leaving = dictionary();
    for (const mode of ["all", "latest"]) {
      const due: Stream[] = [];
      this._each((stream) => {
        if (stream.phase === "needed" && stream.mode === mode && now >= stream.askAt) due.push(stream);
      });
      for (let at = 0; at < due.length; at += TASKS_A_MESSAGE) {
        const id = nextId();
        const tasks = due.slice(at, at + TASKS_A_MESSAGE).map((stream) => {
          const wanted = stream.asked(id);
          if (stream.waitUntil > now) wanted.wait_ms = Math.round(stream.waitUntil - now);
          return wanted;
        });
        const message: Message = { type: "subscribe", id, tasks };
        if (mode === "latest") message.mode = mode;
        messages.push(message);
      }
    }
    return messages;
  }

  /** A reply to `subscribe`. */
  replied(message: Message, now: number, out: Effect[]): void {
    const error = message.error || {};
    this._each((stream) => {
      if (stream.phase !== "asked" || stream.askedAs !== message.id) return;
      if (message.ok) {
        stream.phase = "understood";
      } else if (error.retryable) {
        stream.phase = "needed";
        stream.refusals += 1;
        stream.askAt = now + (error.retry_after_ms || backoffMs(stream.refusals, this._timing, this._random));
      } else {
        stream.phase = "needed";
        this._end(stream, failure("subscribe", error.code, error.message, false, stream.taskId), out);
      }
    });
  }

  /** A message about one task. */
  receive(message: Message, now: number, out: Effect[]): void {
    const taskId = message.type === "snapshot" ? message.task.task_id : message.task_id;
    const stream = this._streams[taskId];
    if (stream === undefined) return;
    const { told, unknown } = stream.receive(message);
    this._tell(stream, told, now, out);
    if (unknown) this._unknown(stream, now, out);
  }

  /** The path of the next poll; when there are many tasks, it takes turns. */
  pollPath(): string {
    const all = Object.keys(this._streams);
    if (this._pollFrom >= all.length) this._pollFrom = 0;
    const ids = all.slice(this._pollFrom, this._pollFrom + POLLED_TASKS);
    this._pollFrom += POLLED_TASKS;
    let epoch = this._epoch;
    for (const id of ids) if (epoch === null && this._streams[id]!.after) epoch = this._streams[id]!.after!.epoch;
    const after = ids.map((id) => {
      const cursor = this._streams[id]!.after;
      return cursor !== null && cursor.epoch === epoch && this._streams[id]!.task !== null ? cursor.seq : 0;
    });
    let path = "/v1/poll?ids=" + encodeURIComponent(ids.join(",")) + "&after=" + encodeURIComponent(after.join(","));
    if (epoch !== null) path += "&epoch=" + encodeURIComponent(epoch);
    return path;
  }

  /** Takes the answer of a poll; whether anything has changed. */
  polled(body: Message, now: number, out: Effect[]): boolean {
    let changed = false;
    if (typeof body.epoch !== "string" || !Array.isArray(body.tasks)) return false;
    this._epoch = body.epoch;
    for (const one of body.tasks) {
      const stream = this._streams[one.task_id];
      if (stream === undefined) continue;
      if (one.verdict === "unknown") {
        if (now >= stream.waitUntil) this._unknown(stream, now, out);
      } else if (one.task) {
        changed = true;
        this._tell(stream, stream.polled(one.task, body.epoch), now, out);
      } else {
        stream.unknowns = 0;
        if (one.verdict === "ended" && stream.task !== null && isEnded(stream.task)) stream.phase = "ended";
        this._tell(stream, [], now, out);
      }
    }
    return changed;
  }

  /** None of them will hear anything more. */
  fail(because: Failure, out: Effect[]): void {
    this._each((stream) => this._end(stream, Object.assign({}, because, { task_id: stream.taskId }), out));
  }

  next(online: boolean): number | null {
    let at = this.saveAt;
    if (online) {
      for (const _ in this._leaving) return 0;
      this._each((stream) => {
        if (stream.phase === "needed") at = earlier(at, stream.askAt);
      });
    }
    return at;
  }

  private _each(call: (stream: Stream) => void): void {
    for (const id of Object.keys(this._streams)) call(this._streams[id]!);
  }

  private _tell(stream: Stream, told: Told[], now: number, out: Effect[]): void {
    const { taskId, cursor } = stream;
    for (const { task, change } of told) out.push({ do: "tell", taskId, task, change, cursor });
    if (told.length > 0 && stream.cursor !== null) {
      this.memory.keep(stream.taskId, stream.cursor, stream.task, now);
      if (this.saveAt === null) this.saveAt = now + this._timing.saveMs;
    }
    if (stream.phase === "ended") this._end(stream, null, out);
  }

  private _unknown(stream: Stream, now: number, out: Effect[]): void {
    stream.unknowns += 1;
    stream.askAt = now + this._timing.unknownMs * (0.75 + this._random() / 2);
    if (stream.unknowns < this._unknownAnswers) return;
    this.memory.drop(stream.taskId);
    this._end(stream, failure("subscribe", "gone", "nobody knows this task", false, stream.taskId), out);
  }

  private _end(stream: Stream, because: Failure | null, out: Effect[]): void {
    delete this._streams[stream.taskId];
    out.push({ do: "over", taskId: stream.taskId, failure: because });
  }
}
