// What survives a reload of the tab: which task is followed (URL hash), and what was seen of it (session storage).
//
// The cursor and the rows it stands for are stored in one piece, so that they can never disagree. Storage may be
// forbidden or full: then a reload reads the history from the ledger again, which is slower and just as right.

const TASK_ID = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/;
const LAST_KEY = "stdlib-index:last";
const keyOf = (taskId) => `stdlib-index:task:${taskId}`;

export function taskInAddress() {
  const taskId = new URLSearchParams(location.hash.slice(1)).get("task");
  return taskId && TASK_ID.test(taskId) ? taskId : null;
}

export function putInAddress(taskId) {
  history.replaceState(null, "", taskId ? `#task=${encodeURIComponent(taskId)}` : location.pathname);
}

/** {cursor, job, gateway} as it was left, or null. */
export function recall(taskId) {
  return attempt(() => JSON.parse(sessionStorage.getItem(keyOf(taskId)))) ?? null;
}

export function keep(taskId, memory) {
  attempt(() => sessionStorage.setItem(keyOf(taskId), JSON.stringify(memory)));
  attempt(() => localStorage.setItem(LAST_KEY, taskId));
}

export function forget(taskId) {
  attempt(() => sessionStorage.removeItem(keyOf(taskId)));
}

/** The task that was followed last in any tab of this browser, or null. */
export function lastTask() {
  const taskId = attempt(() => localStorage.getItem(LAST_KEY));
  return taskId && TASK_ID.test(taskId) ? taskId : null;
}

function attempt(action) {
  try {
    return action();
  } catch {
    return undefined;
  }
}
