// One task followed over one connection, as a pure state machine: what was seen (the cursor), what is missing (the
// gap check), whether and when to connect again, and whether the other side is still alive.
//
// It is told what happened and at what time, and answers with what to do. It never touches the DOM, a socket, a timer,
// a clock or storage: `connection.js` performs its effects, `app.js` shows what it tells.
//
// Effects: {do: "connect"}, {do: "send", message}, {do: "close"}, and {do: "tell", what, …}, where `what` is one of
// state, transition, snapshot, liveness, jumped, unknown, gap, repeat, recovered, receipt, problem. A snapshot and a
// liveness come with `silentAt`: the time of a late worker's last sign of life, null for any other.

export const LIMITS = Object.freeze({
  connectMs: 10_000,
  answerMs: 5_000,
  probeMs: 5_000,
  offlineSilenceMs: 1_000, // while the browser says that it is offline, silence is believed sooner
  offlineProbeMs: 2_000,
  backoffFirstMs: 400,
  backoffMostMs: 5_000,
  appearMs: 60_000,
});

// Which happenings each phase listens to; whatever is not listed is left over from an earlier connection.
const HEEDS = Object.freeze({
  resting: ["start"],
  connecting: ["opened", "closed", "tick", "cancel"],
  greeting: ["frame", "closed", "tick", "cancel"],
  joining: ["frame", "closed", "tick", "cancel", "nudge"],
  following: ["frame", "closed", "tick", "cancel", "nudge"],
  away: ["tick", "cancel", "nudge"],
  over: [],
});

const ENDED = new Set(["completed", "failed", "cancelled", "lost"]);
const SUBSCRIBE_ID = 1;
const CANCEL_ID = 2;
const UNSUBSCRIBE_ID = 3;

export const ended = (status) => ENDED.has(status);

/** Full jitter: anywhere between nothing and a ceiling that doubles, so that a crowd does not come back at once. */
export function backoffMs(attempt, random) {
  const ceiling = Math.min(LIMITS.backoffMostMs, LIMITS.backoffFirstMs * 2 ** Math.min(attempt, 16));
  return Math.round(random() * ceiling);
}

/** Whether a closed connection may be opened again: what `bye` said, else what the close code means. */
export function mayReturn(bye, code) {
  return bye ? bye.retry === true : !(code >= 4500 && code <= 4999);
}

const tell = (what, more = {}) => ({ do: "tell", what, ...more });
const send = (message) => ({ do: "send", message });
const silentAt = ({ liveness, beat_age_ms: ageMs }, now) => (liveness === "late" ? now - (ageMs ?? 0) : null);

export class Stream {
  /** `cursor` is {epoch, seq} or null; `fresh` says that the task may not have reached the ledger yet. */
  constructor({ taskId, cursor = null, fresh = false, random = Math.random }) {
    this.taskId = taskId;
    this.cursor = cursor;
    this.fresh = fresh;
    this.random = random;
    this.phase = "resting";
    this.resumed = cursor !== null; // carries on from an earlier visit
    this.epoch = null;
    this.verdict = null;
    this.degraded = false;
    this.pingMs = 25_000;
    this.heardAt = 0;
    this.probedAt = null;
    this.deadlineAt = null; // absolute: by then the answer that is waited for must be here
    this.returnAt = null;
    this.lostAt = null;
    this.failures = 0; // connections in a row that never reached `following`
    this.refusals = 0; // answers in a row that said "not now"
    this.askAt = null; // when to subscribe again after such an answer
    this.cancelAt = null; // the same for the cancel
    this.catching = null; // {from, to, …} while what was missed is coming in
    this.snapshotDue = false;
    this.deaf = false; // between finding a gap and the answer to the new subscription
    this.waiting = false; // for the task to appear
    this.cancelReason = undefined; // undefined: nobody asked, or it has been answered
  }

  /** What to do about a happening; `now` is an absolute time in milliseconds. */
  receive(happening, now) {
    if (!HEEDS[this.phase].includes(happening.kind)) return [];
    return this[`on_${happening.kind}`](happening, now);
  }

  on_start(_, now) {
    return this.#connect(now, "connecting");
  }

  on_opened(_, now) {
    this.phase = "greeting";
    this.deadlineAt = now + LIMITS.answerMs;
    this.heardAt = now;
    return [send({ type: "hello", v: 1, client: "stdlib-index-page/1.0" })];
  }

  on_closed({ code, bye = null }, now) {
    Object.assign(this, { catching: null, snapshotDue: false, deaf: false, degraded: false });
    Object.assign(this, { deadlineAt: null, probedAt: null, askAt: null, cancelAt: null });
    this.lostAt ??= now;
    if (!mayReturn(bye, code)) {
      this.phase = "over";
      return [tell("state", { state: "refused", sentence: bye?.message ?? `The gateway closed with code ${code}.` })];
    }
    this.phase = "away";
    this.returnAt = now + (bye?.retry_after_ms ?? backoffMs(this.failures, this.random));
    this.failures += 1;
    return [tell("state", { state: "reconnecting", failures: this.failures, sentence: bye?.message ?? null })];
  }

  on_nudge(_, now) {
    if (this.phase === "away") return this.#connect(now, "reconnecting");
    return this.probedAt === null ? this.#probe(now) : [];
  }

  on_cancel({ reason = null }) {
    this.cancelReason = reason;
    return this.phase === "following" ? [this.#cancelMessage()] : [];
  }

  /** `offline` is what the browser says; it may be wrong about this one connection, so the connection is asked. */
  on_tick({ offline = false }, now) {
    if (this.phase === "away") return now >= this.returnAt ? this.#connect(now, "reconnecting") : [];
    if (this.deadlineAt !== null && now >= this.deadlineAt) return this.#overdue(now);
    if (this.phase !== "joining" && this.phase !== "following") return [];
    const [silenceMs, probeMs] = offline ? [LIMITS.offlineSilenceMs, LIMITS.offlineProbeMs] : [this.pingMs * 1.5, LIMITS.probeMs];
    if (this.probedAt !== null) return now - this.probedAt >= probeMs ? this.#abandon(now) : [];
    if (now - this.heardAt > silenceMs) return this.#probe(now);
    return this.#askAgain(now);
  }

  on_frame({ message }, now) {
    this.heardAt = now;
    this.probedAt = null;
    const take = this[`take_${message.type}`];
    if (!take || (this.phase === "greeting" && !["welcome", "bye"].includes(message.type))) return [];
    if (message.task_id !== undefined && message.task_id !== this.taskId) return [];
    return take.call(this, message, now);
  }

  // ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────

  take_welcome({ epoch, ping_interval_ms: pingMs }, now) {
    this.phase = "joining";
    this.epoch = epoch;
    this.pingMs = pingMs;
    return [this.#subscribe(now)];
  }

  take_ping() {
    return [send({ type: "pong" })];
  }

  take_bye(bye, now) {
    return [{ do: "close" }, ...this.on_closed({ code: bye.code, bye }, now)];
  }

  take_subscribed({ verdict, epoch, seq, recovered, waiting }, now) {
    const from = this.cursor?.seq ?? 0;
    const awayMs = this.lostAt === null ? null : now - this.lostAt;
    this.phase = "following";
    this.epoch = epoch;
    this.verdict = verdict;
    this.waiting = waiting === true;
    Object.assign(this, { lostAt: null, failures: 0, refusals: 0, deaf: false });
    this.deadlineAt = this.waiting ? now + LIMITS.appearMs : null;
    if (verdict === "unknown" && !this.waiting) return [...this.#finish(), tell("unknown", { seq: from })];
    this.snapshotDue = !recovered && !this.waiting;
    if (recovered) {
      this.cursor = { epoch, seq: from };
      const broken = awayMs !== null || this.resumed; // or else this is simply the beginning
      this.catching = { from, to: Math.max(from, seq), awayMs, resumed: this.resumed, broken };
    } else if (this.waiting) this.cursor = { epoch, seq: 0 }; // what was seen is gone; it begins at 1 again
    const effects = [tell("state", { state: this.#liveState() })];
    if (this.cancelReason !== undefined) effects.push(this.#cancelMessage());
    return [...effects, ...this.#caughtUp()];
  }

  take_transition(transition, now) {
    const { seq, status } = transition;
    const last = this.cursor?.seq ?? 0;
    if (this.phase !== "following" || this.deaf) return [];
    if (seq <= last) return [tell("repeat", { seq })];
    if (seq !== last + 1) {
      this.deaf = true;
      this.catching = null;
      const leave = { type: "unsubscribe", id: UNSUBSCRIBE_ID, task_ids: [this.taskId] };
      return [tell("gap", { expected: last + 1, got: seq }), send(leave), this.#subscribe(now)];
    }
    const appeared = this.#settle(seq, status);
    const replayed = this.catching?.broken === true && seq <= this.catching.to;
    return [...appeared, tell("transition", { transition, replayed }), ...this.#caughtUp()];
  }

  take_snapshot({ task }, now) {
    if (task.task_id !== this.taskId || this.phase !== "following") return [];
    this.snapshotDue = false;
    const appeared = this.#settle(task.seq, task.status);
    return [...appeared, tell("snapshot", { task, silentAt: silentAt(task, now) }), ...this.#finishIfEnded()];
  }

  take_liveness(worker, now) {
    return this.phase === "following" && !this.deaf ? [tell("liveness", { silentAt: silentAt(worker, now) })] : [];
  }

  take_notice({ kind, reason, from, to }) {
    if (kind === "jumped") return [tell("jumped", { reason, from, to })];
    if (kind !== "degraded" && kind !== "restored") return [];
    this.degraded = kind === "degraded";
    return [tell("state", { state: this.#liveState() })];
  }

  take_reply({ id, ok, error, cancel }, now) {
    if (ok && id !== CANCEL_ID) {
      // Understood. `subscribed` may take as long as the ledger is away; the pings watch the connection meanwhile.
      if (id === SUBSCRIBE_ID && this.phase === "joining") this.deadlineAt = null;
      return [];
    }
    if (!ok && error.retryable) {
      this.refusals += 1;
      const againAt = now + (error.retry_after_ms ?? backoffMs(this.refusals, this.random));
      if (id === CANCEL_ID) this.cancelAt = againAt;
      else Object.assign(this, { askAt: againAt, deadlineAt: null });
      return [tell("problem", { error, final: false })];
    }
    if (id !== CANCEL_ID) return [...this.#finish(), tell("problem", { error, final: true })];
    this.cancelReason = undefined;
    const told = ok ? tell("receipt", { cancel }) : tell("problem", { error, final: false });
    return [told, ...this.#finishIfEnded()];
  }

  // ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #connect(now, state) {
    this.phase = "connecting";
    this.deadlineAt = now + LIMITS.connectMs;
    this.returnAt = null;
    return [{ do: "connect" }, tell("state", { state, failures: this.failures })];
  }

  /** The connection says nothing any more: treat it as broken since its last word, without waiting for its close event. */
  #abandon(now) {
    this.lostAt ??= this.heardAt || now; // 0: the first connection never opened
    return [{ do: "close" }, ...this.on_closed({ code: 1006 }, now)];
  }

  #overdue(now) {
    if (!this.waiting) return this.#abandon(now);
    this.waiting = false;
    this.fresh = false; // the task should have appeared by now: ask for the verdict
    return [this.#subscribe(now)];
  }

  #askAgain(now) {
    const effects = [];
    if (this.askAt !== null && now >= this.askAt) effects.push(this.#subscribe(now));
    if (this.cancelAt !== null && now >= this.cancelAt) effects.push(this.#cancelMessage());
    return effects;
  }

  #probe(now) {
    this.probedAt = now;
    return [send({ type: "ping" })];
  }

  #subscribe(now) {
    this.askAt = null;
    this.deadlineAt = now + LIMITS.answerMs;
    const after = this.cursor ?? { epoch: this.epoch, seq: 0 };
    const message = { type: "subscribe", id: SUBSCRIBE_ID, tasks: [{ task_id: this.taskId, after }] };
    return send(this.fresh ? { ...message, wait_ms: LIMITS.appearMs } : message);
  }

  #cancelMessage() {
    this.cancelAt = null;
    return send({ type: "cancel", id: CANCEL_ID, task_id: this.taskId, reason: this.cancelReason });
  }

  #liveState() {
    if (this.degraded) return "degraded";
    return this.waiting ? "waiting" : "live";
  }

  #settle(seq, status) {
    const appeared = this.waiting;
    Object.assign(this, { cursor: { epoch: this.epoch, seq }, fresh: false, waiting: false });
    if (appeared) this.deadlineAt = null;
    if (ended(status)) this.verdict = "ended";
    return appeared ? [tell("state", { state: this.#liveState() })] : [];
  }

  /** Says what a break or a reload has cost, once all that was missed is here. */
  #caughtUp() {
    const { catching } = this;
    if (catching === null || this.cursor.seq < catching.to) return this.#finishIfEnded();
    const { awayMs, resumed, broken, from, to } = catching;
    this.catching = null;
    this.resumed = false;
    const effects = broken ? [tell("recovered", { awayMs, resumed, caughtUp: to - from, seq: to })] : [];
    return [...effects, ...this.#finishIfEnded()];
  }

  /** An ended task with nothing outstanding needs no connection. */
  #finishIfEnded() {
    const outstanding = this.catching !== null || this.snapshotDue || this.cancelReason !== undefined;
    return this.phase === "following" && this.verdict === "ended" && !outstanding ? this.#finish() : [];
  }

  #finish() {
    this.phase = "over";
    return [{ do: "close" }, tell("state", { state: "finished" })];
  }
}
