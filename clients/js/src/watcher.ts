/** Who has subscribed to a task, and the calling of handlers: one that throws harms nobody else. */
import { failure } from "./core/effects.js";
import { isEnded } from "./core/stream.js";
import type { Change, Cursor, Failure, Handlers, Task } from "./types.js";

export interface Watcher {
  taskId: string;
  handlers: Handlers;
  task: Task | null;
  cursor: Cursor | null;
  /** Why nothing else will come; undefined: something may. */
  over: Failure | null | undefined;
  waiting: { resolve: (task: Task) => void; reject: (failure: Failure) => void }[];
}

/** Calls a handler with its arguments; `thrown` is told of what it throws. */
export type Call = (handler: ((...given: any[]) => void) | undefined, ...given: any[]) => void;

export function tell(watcher: Watcher, task: Task, change: Change, cursor: Cursor | null, call: Call): void {
  const { handlers } = watcher;
  const { status } = task;
  watcher.task = task;
  watcher.cursor = cursor;
  call(handlers.onState, task, change);
  if (status === "completed") call(handlers.onDone, task, change);
  else if (status === "failed") call(handlers.onFail, task, change);
  else if (status === "cancelled") call(handlers.onCancelled, task, change);
  else if (status === "lost") call(handlers.onLost, task, change);
  else if (change.kind !== "liveness") call(handlers.onProgress, task, change);
  settle(watcher);
}

/** Nothing else will come. */
export function end(watcher: Watcher, because: Failure | null, call: Call): void {
  if (watcher.over !== undefined) return;
  watcher.over = because;
  const { onGone, onError } = watcher.handlers;
  if (because && because.errCode !== "closed") call(because.errCode === "gone" ? onGone : onError, because);
  settle(watcher);
}

export function done(watcher: Watcher): Promise<Task> {
  return new Promise((resolve, reject) => {
    watcher.waiting.push({ resolve, reject });
    settle(watcher);
  });
}

function settle({ task, over, waiting, taskId }: Watcher): void {
  const ended = task && isEnded(task);
  if (!ended && over === undefined) return;
  let because = over || failure("done", "closed", "ended", false, taskId);
  if (ended) {
    because = failure("done", task.status, task.status, false, taskId);
    because.task = task;
  }
  for (const { resolve, reject } of waiting.splice(0)) {
    if (ended && task.status === "completed") resolve(task);
    else reject(because);
  }
}
