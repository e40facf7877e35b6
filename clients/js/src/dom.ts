/** Shows a task in plain HTML, without a framework. */
import type { Client, Failure, SubscribeOptions, Subscription, Task } from "./types.js";

/**
 * Fills what is below `root`: `[data-task="progress"]` (also a `<progress>`), `"stage"`, `"message"`, `"status"` and any
 * other member of the task as text; a click on `[data-task-cancel]` cancels. `root.dataset.status` is the status, or
 * "gone"; `root.dataset.liveness` is live, late or lost. Unsubscribe to end it.
 */
export function showTask(client: Client, taskId: string, root: HTMLElement, options: SubscribeOptions = {}): Subscription {
  const show = (task: Task) => {
    root.dataset.status = task.status;
    root.dataset.liveness = task.liveness || "";
    for (const element of Array.from(root.querySelectorAll<HTMLElement>("[data-task]"))) {
      const value = (task as unknown as { [name: string]: unknown })[element.dataset.task!];
      if (element instanceof HTMLProgressElement) showProgress(element, value);
      else element.textContent = textOf(value);
    }
    for (const button of buttons()) button.disabled = task.status !== "pending" && task.status !== "running";
  };
  const gone = (because: Failure) => {
    root.dataset.status = because.errCode === "gone" ? "gone" : "refused";
    for (const button of buttons()) button.disabled = true;
  };
  const buttons = () => Array.from(root.querySelectorAll<HTMLButtonElement>("[data-task-cancel]"));
  const subscription = client.subscribe(taskId, {
    ...options,
    onState(task, change) {
      show(task);
      if (options.onState) options.onState(task, change);
    },
    onGone(because) {
      gone(because);
      if (options.onGone) options.onGone(because);
    },
    onError(because) {
      gone(because);
      if (options.onError) options.onError(because);
    },
  });
  const clicked = (event: Event) => {
    if (!(event.target instanceof Element) || event.target.closest("[data-task-cancel]") === null) return;
    subscription.cancel().catch((because: Failure) => {
      root.dataset.cancel = because.errCode;
    });
  };
  root.addEventListener("click", clicked);
  return {
    taskId,
    get task() {
      return subscription.task;
    },
    get cursor() {
      return subscription.cursor;
    },
    done: () => subscription.done(),
    cancel: (given) => subscription.cancel(given),
    unsubscribe() {
      root.removeEventListener("click", clicked);
      subscription.unsubscribe();
    },
  };
}

function showProgress(element: HTMLProgressElement, value: unknown): void {
  if (typeof value === "number") {
    element.max = 100;
    element.value = value;
  } else element.removeAttribute("value");
}

function textOf(value: unknown): string {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
