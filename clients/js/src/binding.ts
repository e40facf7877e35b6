/** Shows a task in the data of a page or component, with few `setData`: each costs a mini-program a message between threads. */
import { isEnded } from "./core/stream.js";
import type { BindOptions, Binding, Change, Client, Failure, PageLike, SubscribeOptions, Task } from "./types.js";

const THROTTLE_MS = 200;

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

  const given: { [name: string]: unknown } = {};
  for (const name of Object.keys(options)) {
    const option = options[name as keyof BindOptions];
    given[name] = typeof option === "function" ? option.bind(page) : option;
  }
  const { onState, onGone } = given as SubscribeOptions;
  given.onState = (task: Task, change: Change) => {
    offer(task);
    if (onState) onState(task, change);
  };
  given.onGone = (because: Failure) => {
    page.setData({ [property]: { task_id: taskId, status: "gone" } });
    if (onGone) onGone(because);
  };

  const subscription = client.subscribe(taskId, given);
  const stop = () => {
    if (stopped) return;
    stopped = true;
    if (timer !== null) clearTimeout(timer);
    subscription.unsubscribe();
  };
  const hooks = page as { onUnload?: (...given: unknown[]) => unknown };
  const { onUnload } = hooks;
  hooks.onUnload = function () {
    stop();
    return onUnload && onUnload.apply(page, arguments as unknown as unknown[]);
  };
  return { subscription, stop };
}
