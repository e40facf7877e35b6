/** Who has subscribed to which task, and the calling of their handlers: one that throws harms nobody else. */
import { dictionary, failure } from "./core/effects.js";
import { isEnded } from "./core/stream.js";
import type { Change, Cursor, Failure, Handlers, Task } from "./types.js";

interface Waiting {
  resolve: (task: Task) => void;
  reject: (failure: Failure) => void;
}

export class Watcher {
  task: Task | null = null;
  cursor: Cursor | null = null;
  /** Why nothing else will come; undefined: something may. */
  over: Failure | null | undefined = undefined;
  private _waiting: Waiting[] = [];

  constructor(
    readonly taskId: string,
    private _handlers: Handlers,
    private readonly _thrown: (error: unknown, taskId: string) => void,
  ) {}

  tell(task: Task, change: Change): void {
    this.task = task;
    const { _handlers: handlers } = this;
    this._call(handlers.onState, task, change);
    if (!isEnded(task)) {
      if (change.kind !== "liveness") this._call(handlers.onProgress, task, change);
      return;
    }
    if (task.status === "completed") this._call(handlers.onDone, task, change);
    else if (task.status === "failed") this._call(handlers.onFail, task, change);
    else if (task.status === "cancelled") this._call(handlers.onCancelled, task, change);
    else this._call(handlers.onLost, task, change);
    this._settle();
  }

  /** Nothing else will come. */
  end(because: Failure | null): void {
    if (this.over !== undefined) return;
    this.over = because;
    if (because !== null) {
      if (because.errCode === "gone") this._call(this._handlers.onGone, because);
      else if (because.errCode !== "closed") this._call(this._handlers.onError, because);
    }
    this._settle();
  }

  /** Nobody listens any more. */
  leave(): void {
    this._handlers = {};
    this.end(failure("subscribe", "closed", "unsubscribed", false, this.taskId));
  }

  done(): Promise<Task> {
    return new Promise((resolve, reject) => {
      this._waiting.push({ resolve, reject });
      this._settle();
    });
  }

  private _settle(): void {
    const { task, over } = this;
    const ended = task !== null && isEnded(task);
    if (!ended && over === undefined) return;
    const waiting = this._waiting;
    this._waiting = [];
    for (const one of waiting) {
      if (ended && task.status === "completed") one.resolve(task);
      else if (ended) one.reject(endedOtherwise(task));
      else one.reject(over || failure("done", "closed", "nothing else will come", false, this.taskId));
    }
  }

  private _call(handler: ((...given: any[]) => void) | undefined, ...given: unknown[]): void {
    if (!handler) return;
    try {
      handler.apply(null, given);
    } catch (error) {
      this._thrown(error, this.taskId);
    }
  }
}

function endedOtherwise(task: Task): Failure {
  const because = failure("done", task.status, "the task is " + task.status, false, task.task_id);
  because.task = task;
  return because;
}

/** All watchers, by task. */
export class Watchers {
  count = 0;
  private _of = dictionary<Watcher[]>();

  add(watcher: Watcher): void {
    const { taskId } = watcher;
    if (this._of[taskId] === undefined) this.count += 1;
    this._of[taskId] = (this._of[taskId] || []).concat([watcher]);
  }

  /** Whether it was the last one of its task. */
  remove(watcher: Watcher): boolean {
    const left = (this._of[watcher.taskId] || []).filter((one) => one !== watcher);
    if (left.length > 0) this._of[watcher.taskId] = left;
    else this._drop(watcher.taskId);
    return left.length === 0;
  }

  has(taskId: string): boolean {
    return this._of[taskId] !== undefined;
  }

  tell(taskId: string, task: Task, change: Change, cursor: Cursor | null): void {
    for (const watcher of this._of[taskId] || []) {
      watcher.cursor = cursor;
      watcher.tell(task, change);
    }
  }

  end(taskId: string, because: Failure | null): void {
    const ended = this._of[taskId] || [];
    this._drop(taskId);
    for (const watcher of ended) watcher.end(because);
  }

  private _drop(taskId: string): void {
    if (this._of[taskId] === undefined) return;
    delete this._of[taskId];
    this.count -= 1;
  }
}
