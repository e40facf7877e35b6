/** All that is watched: what to ask for, whom a message is for, who is gone, what a poll brings. Pure. */
import type { Change, Cursor, Failure, Task, Timing } from "../types.js";
import { dictionary, failure, type Effect, type Message, type WireError } from "./effects.js";
import { dump, load, trim } from "./memory.js";
import { afterOf, polled, receive, type Stream } from "./stream.js";
import { backoffMs, NEVER } from "./timing.js";

/** Of each with 128 characters of id and a cursor: a quarter of the largest frame. Also the most that a poll takes. */
const TASKS_A_MESSAGE = 100;
/** Subscriptions of one page are sent together: a mini-program may send about five frames a second. */
const GATHER_MS = 20;

export type Streams = ReturnType<typeof makeStreams>;

export function makeStreams(timing: Timing, random: () => number, unknownAnswers: number, emit: (effect: Effect) => void) {
  const open = dictionary<Stream>();
  let leaving = dictionary<true>();
  let kept = load(null, 0);
  let epoch: string | null = null;
  let pollFrom = 0;
  let saveAt = NEVER;

  const each = (call: (stream: Stream) => void) => Object.keys(open).forEach((id) => call(open[id]!));
  const end = (stream: Stream, because: Failure | null) => {
    delete open[stream.taskId];
    emit({ do: "over", taskId: stream.taskId, failure: because });
  };
  const finish = (stream: Stream) => {
    if (stream.phase === "ended") end(stream, null);
  };
  /** Keeps and tells; `at` is the time of the event that is dealt with. */
  let at = 0;
  const tell = (stream: Stream, change: Change) => {
    const { taskId } = stream;
    const cursor = stream.cursor!;
    const task = stream.task!;
    kept[taskId] = { cursor, at, task, stored: false };
    trim(kept);
    saveAt = Math.min(saveAt, at + timing.saveMs);
    emit({ do: "tell", taskId, task, change, cursor });
  };
  const unknown = (stream: Stream) => {
    stream.askAt = at + timing.unknownMs * (0.75 + random() / 2);
    if (++stream.unknowns < unknownAnswers) return;
    delete kept[stream.taskId];
    end(stream, failure("subscribe", "gone", "nobody knows this task", false, stream.taskId));
  };
  /** In portions that a message may hold. */
  const portions = <T>(list: T[], call: (some: T[]) => void) => {
    for (let from = 0; from < list.length; from += TASKS_A_MESSAGE) call(list.slice(from, from + TASKS_A_MESSAGE));
  };

  return {
    any: () => Object.keys(open).length > 0,

    load(text: string | null, now: number) {
      kept = load(text, now);
    },

    forget() {
      kept = dictionary();
      saveAt = NEVER;
    },

    /** What is to be stored, once it is time; null: nothing yet. */
    unsaved(now: number): string | null {
      if (now < saveAt) return null;
      saveAt = NEVER;
      return dump(kept);
    },

    /** The state as last told, to whoever comes later. */
    known(taskId: string) {
      return (open[taskId] && kept[taskId]) || null;
    },

    add(taskId: string, mode: Stream["mode"], after: Cursor | null | undefined, waitMs: number, now: number) {
      const stream = open[taskId];
      if (stream) {
        stream.waitUntil = Math.max(stream.waitUntil, now + waitMs);
        if (stream.mode !== mode && mode === "all") {
          stream.mode = mode;
          stream.phase = "needed";
        }
        return;
      }
      if (after !== undefined) delete kept[taskId];
      const before = kept[taskId];
      delete leaving[taskId];
      open[taskId] = {
        taskId,
        mode,
        phase: "needed",
        cursor: after || (before && before.cursor) || null,
        task: (before && before.task) || null,
        bare: !!after,
        asked: 0,
        askAt: now + GATHER_MS,
        waitUntil: now + waitMs,
        unknowns: 0,
        refusals: 0,
        epoch: "",
        jump: null,
      };
    },

    remove(taskId: string) {
      const stream = open[taskId];
      if (stream && stream.phase !== "needed") leaving[taskId] = true;
      delete open[taskId];
    },

    /** The connection is gone. */
    interrupt() {
      leaving = dictionary();
      each((stream) => (stream.phase = "needed"));
    },

    welcomed(given: string) {
      epoch = given;
    },

    messages(now: number, nextId: () => number): Message[] {
      const messages: Message[] = [];
      portions(Object.keys(leaving), (task_ids) => messages.push({ type: "unsubscribe", id: nextId(), task_ids }));
      leaving = dictionary();
      for (const mode of ["all", "latest"]) {
        const due: Stream[] = [];
        each((stream) => stream.phase === "needed" && stream.mode === mode && now >= stream.askAt && due.push(stream));
        portions(due, (some) => {
          const id = nextId();
          const tasks = some.map((stream) => {
            const wanted: Message = { task_id: stream.taskId };
            const after = afterOf(stream);
            if (after) wanted.after = after;
            if (stream.waitUntil > now) wanted.wait_ms = Math.round(stream.waitUntil - now);
            stream.phase = "asked";
            stream.asked = id;
            return wanted;
          });
          messages.push({ type: "subscribe", id, tasks, mode });
        });
      }
      return messages;
    },

    /** The reply to a `subscribe`. */
    replied(id: number, error: WireError | null, now: number) {
      each((stream) => {
        if (stream.phase !== "asked" || stream.asked !== id) return;
        stream.phase = error ? "needed" : "understood";
        if (!error) return;
        stream.askAt = now + (error.retry_after_ms || backoffMs(stream.refusals++, timing, random));
        if (!error.retryable) end(stream, failure("subscribe", error.code, error.message, false, stream.taskId));
      });
    },

    /** A message about one task. */
    receive(message: Message, now: number) {
      const stream = open[message.task ? message.task.task_id : message.task_id];
      if (!stream) return;
      at = now;
      if (receive(stream, message, tell)) unknown(stream);
      else finish(stream);
    },

    /** When there are many tasks, polls take turns. */
    pollPath(): string {
      const all = Object.keys(open);
      if (pollFrom >= all.length) pollFrom = 0;
      const ids = all.slice(pollFrom, pollFrom + TASKS_A_MESSAGE);
      pollFrom += TASKS_A_MESSAGE;
      const cursors = ids.map((id) => (open[id]!.task ? open[id]!.cursor : null));
      for (const cursor of cursors) epoch = epoch || (cursor && cursor.epoch);
      const after = cursors.map((cursor) => (cursor && cursor.epoch === epoch ? cursor.seq : 0));
      return "/v1/poll?ids=" + ids.join(",") + "&after=" + after.join(",") + (epoch ? "&epoch=" + encodeURIComponent(epoch) : "");
    },

    /** Takes the answer of a poll; whether anything has changed. */
    polled(body: { epoch: string; tasks: { task_id: string; verdict: string; task?: Task }[] }, now: number): boolean {
      let changed = false;
      at = now;
      epoch = body.epoch;
      for (const one of body.tasks) {
        const stream = open[one.task_id];
        if (!stream) continue;
        if (one.verdict !== "unknown") {
          changed = changed || !!one.task;
          polled(stream, one.task || null, body.epoch, tell);
          finish(stream);
        } else if (now >= stream.waitUntil) unknown(stream);
      }
      return changed;
    },

    /** None of them will hear anything more. */
    fail(because: Failure) {
      each((stream) => end(stream, Object.assign({}, because, { task_id: stream.taskId })));
    },

    next(online: boolean): number {
      let next = saveAt;
      if (online) {
        if (Object.keys(leaving).length > 0) return 0;
        each((stream) => {
          if (stream.phase === "needed") next = Math.min(next, stream.askAt);
        });
      }
      return next;
    },
  };
}
