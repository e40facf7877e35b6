/** Shows a task in the data of a page or component, with few `setData`: each costs a mini-program a message between threads. */
import { isEnded } from "./core/stream.js";
import type { BindOptions, Binding, Client, Failure, PageLike, SubscribeOptions, Task, TaskHandler } from "./types.js";

const THROTTLE_MS = 200;
/** When the page goes, so does the binding. */
const ENDS = ["onUnload", "detached"];

export function bindPage(client: Client, page: PageLike, taskId: string, property: string, options: BindOptions): Binding {
  const throttleMs = options.throttleMs === undefined ? THROTTLE_MS : options.throttleMs;
  let shownAt = 0;
  let timer: ReturnType<typeof setTimeout> | null = null;
  let waiting: Task | null = null;
  let stopped = false;

  const show = () => {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    if (stopped || waiting === null) return;
    shownAt = Date.now();
    const task = waiting;
    waiting = null;
    page.setData({ [property]: task });
  };
  const offer = (task: Task) => {
    waiting = task;
    const dueMs = shownAt + throttleMs - Date.now();
    if (dueMs <= 0 || dueMs > throttleMs || isEnded(task)) show();
    else if (timer === null) timer = setTimeout(show, dueMs);
  };

  const given: SubscribeOptions = Object.assign({}, options);
  const { onState, onGone } = options;
  given.onState = (task, change) => {
    offer(task);
    if (onState) onState.call(page, task, change);
  };
  given.onGone = (because) => {
    page.setData({ [property]: { task_id: taskId, status: "gone" } });
    if (onGone) onGone.call(page, because);
  };
  for (const name of ["onProgress", "onDone", "onFail", "onCancelled", "onLost"] as const) {
    const handler = options[name];
    if (handler) given[name] = ((task, change) => handler.call(page, task, change)) as TaskHandler;
  }
  const { onError } = options;
  if (onError) given.onError = (because: Failure) => onError.call(page, because);

  const subscription = client.subscribe(taskId, given);
  const stop = () => {
    if (stopped) return;
    stopped = true;
    if (timer !== null) clearTimeout(timer);
    subscription.unsubscribe();
  };
  const hooks = page as unknown as { [name: string]: unknown };
  for (const name of ENDS) {
    const before = hooks[name];
    if (typeof before !== "function" && name !== "onUnload") continue;
    hooks[name] = function (this: unknown) {
      stop();
      return typeof before === "function" ? before.apply(this, arguments) : undefined;
    };
  }
  return { subscription, stop };
}
