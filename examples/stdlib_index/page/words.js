// What the page says: every sentence that depends on numbers or states, in one place. Pure; knows no elements.

const COUNT = new Intl.NumberFormat("en");

export const count = (number) => COUNT.format(number);

export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

export function duration(milliseconds) {
  if (milliseconds < 60_000) return `${(milliseconds / 1000).toFixed(1)} s`;
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

export function clock(at) {
  const time = new Date(at);
  return Number.isNaN(time.getTime()) ? "" : time.toLocaleTimeString("en-GB");
}

export const CONNECTION = {
  idle: ["Idle", "No job is being followed."],
  connecting: ["Connecting", "Opening the connection to the gateway."],
  live: ["Connected", "Every change is shown as it is committed."],
  waiting: ["Connected", "The task has not reached the ledger yet."],
  reconnecting: ["Reconnecting", "The connection to the gateway is gone. The job goes on; this page returns by itself."],
  degraded: ["Degraded", "The gateway cannot reach its ledger just now. What is shown may be old."],
  finished: ["Finished", "The job has ended and everything was seen; the connection is closed."],
  refused: ["Disconnected", "The gateway refuses this page, so it does not try again."],
};

export const RESTORED = "The gateway reaches its ledger again.";

export const STATUS = {
  none: "Waiting for the first word",
  pending: "Waiting for its turn",
  running: "Running",
  cancelling: "Cancelling",
  completed: "Completed",
  failed: "Failed",
  cancelled: "Cancelled",
  lost: "Lost",
};

export const LATE = "Late";

/** A job that should be at work and says nothing; one that waits for its turn has nothing to say. */
export function silence({ silentMs, waitingSince }) {
  if (waitingSince) return `It has waited since ${clock(waitingSince)}.`;
  const silent = silentMs < 120_000 ? `${Math.round(silentMs / 1000)} s` : duration(silentMs);
  return `Its worker has been silent for ${silent} and may be gone. You can start another job.`;
}

// What stands under the bar once the job has ended.
export const ENDING = {
  completed: "Everything was read.",
  failed: "The job could not be done.",
  cancelled: "Stopped before the end, as asked.",
  lost: "The worker fell silent, and the gateway has given up on it.",
  forced: "Nobody answered the cancel, so the gateway has ended the job.",
};

export function recovery({ awayMs, resumed, caughtUp, seq }) {
  const missed = caughtUp === 0 ? "no transition had been missed" : `${plural(caughtUp, "transition")} caught up, nothing missing`;
  if (awayMs !== null) return `Connection was away for ${duration(awayMs)}; ${missed}.`;
  return resumed ? `The page was reloaded and went on after sequence ${count(seq - caughtUp)}; ${missed}.` : "";
}

const JUMPS = {
  other_epoch: "the ledger's history was rewound to an older backup",
  beyond_head: "this page had seen more than the ledger holds",
  not_in_ledger: "the ledger no longer holds what lies between",
};

export function jump({ reason, from, to }) {
  const why = JUMPS[reason] ?? reason;
  return `Jumped from sequence ${count(from.seq)} to ${count(to.seq)}: ${why}.`;
}

export const gap = ({ expected, got }) =>
  `Sequence ${count(expected)} was expected and ${count(got)} came; what lies between was asked for again.`;

export const HINT = "Try to break it: kill the gateway, reload this page, go offline. It carries on where it was.";

export const UNKNOWN = "The ledger knows no task with this id. It may have been started on another ledger, or never.";

/** One line on the rows that are shown: from where to where, and whether anything is missing or doubled. */
export function continuity({ first, last, holes, repeats }) {
  if (first === null) return "";
  const found = [holes ? plural(holes, "hole") : "no hole", repeats ? plural(repeats, "repeat") : "no repeat"];
  return `${count(first)} – ${count(last)} · ${found.join(" · ")}`;
}

export const CANCEL = {
  asked: "Cancel asked for; it will be sent as soon as the gateway is back.",
  recorded: "The gateway has committed the request; it survives every restart.",
  delivered: "The worker has heard it and is stopping.",
  honoured: "The worker has stopped.",
  forced: "The worker did not answer in time; it may be at work still, and nothing it says counts any more.",
  refused: "The worker refused and goes on.",
  too_late: "Too late: the job had already ended.",
};

export const CANCEL_STAGE = {
  recorded: "Recorded",
  delivered: "Delivered",
  honoured: "Honoured",
  forced: "Forced",
  refused: "Refused",
  too_late: "Too late",
};

/** A failure in a sentence, whatever the worker put into `error`. */
export function failure(error) {
  if (typeof error === "string") return error;
  return error?.message ?? error?.reason ?? (error ? JSON.stringify(error) : "The worker gave no reason.");
}
