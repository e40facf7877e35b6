// A gateway on paper: tasks with histories, connections with subscriptions. Speaks as docs/protocol.md says.
const ENDED = ["completed", "failed", "cancelled", "lost"];

export class PaperLedger {
  constructor() {
    this.epoch = "e-1";
    this.tasks = new Map();
  }

  commit(taskId, change = {}) {
    const steps = this.tasks.get(taskId) ?? [];
    const last = steps.at(-1) ?? { status: "pending", progress: null, stage: null, message: null, attempt: 0 };
    if (ENDED.includes(last.status)) return null;
    const { status, progress, stage, message, attempt } = { ...last, status: "running", ...change };
    const step = { task_id: taskId, seq: steps.length + 1, status, progress, stage, message, attempt, at: "2026-01-01T00:00:00Z" };
    for (const name of ["data", "result", "error", "cancel"]) if (name in change) step[name] = change[name];
    this.tasks.set(taskId, [...steps, step]);
    return step;
  }

  /** An older backup was restored. */
  rewind(epoch) {
    this.epoch = epoch;
    for (const [taskId, steps] of this.tasks) this.tasks.set(taskId, steps.slice(0, Math.ceil(steps.length / 2)));
  }

  snapshot(taskId) {
    const steps = this.tasks.get(taskId);
    if (!steps?.length) return null;
    const task = { kind: null, owner: null, data: null, result: null, error: null, cancel: null, liveness: null };
    for (const step of steps) Object.assign(task, step);
    if (task.status === "running") task.liveness = "live";
    return task;
  }

  ended(taskId) {
    return ENDED.includes(this.tasks.get(taskId)?.at(-1)?.status);
  }

  poll(path) {
    const query = new URL(path, "http://x").searchParams;
    const ids = query.get("ids").split(",");
    const after = query.get("after").split(",").map(Number);
    const same = (query.get("epoch") ?? this.epoch) === this.epoch;
    const tasks = ids.map((task_id, at) => {
      const task = this.snapshot(task_id);
      if (task === null) return { task_id, verdict: "unknown" };
      const verdict = this.ended(task_id) ? "ended" : "live";
      return same && task.seq <= after[at] ? { task_id, verdict } : { task_id, verdict, task };
    });
    return { epoch: this.epoch, tasks };
  }
}

/** One connection's end at the gateway: `take` a frame; what is to be sent is given to `send`. */
export class PaperPeer {
  constructor(ledger, send, { pingMs = 25_000, tokens = null } = {}) {
    Object.assign(this, { ledger, send, pingMs, tokens, subs: new Map(), greeted: false, received: [] });
  }

  take(text) {
    const given = JSON.parse(text);
    for (const message of Array.isArray(given) ? given : [given]) {
      this.received.push(message);
      this[`on_${message.type}`]?.(message);
    }
  }

  on_hello({ token }) {
    if (this.tokens !== null && !this.tokens.includes(token)) return this.bye(4501, "unauthenticated", false);
    this.greeted = true;
    this.send({ type: "welcome", v: 1, session: "s", epoch: this.ledger.epoch, ping_interval_ms: this.pingMs, server_time: "", limits: {} });
  }

  on_ping() {
    this.send({ type: "pong" });
  }

  on_subscribe({ id, tasks, mode = "all", wait_ms: waitMs }) {
    this.send({ type: "reply", id, ok: true });
    for (const { task_id, after, wait_ms = waitMs } of tasks) this.#watch(task_id, after, mode, wait_ms);
  }

  on_unsubscribe({ id, task_ids }) {
    for (const taskId of task_ids) this.subs.delete(taskId);
    this.send({ type: "reply", id, ok: true });
  }

  on_cancel({ id, task_id, reason = null }) {
    const ended = this.ledger.ended(task_id);
    const step = ended ? null : this.ledger.commit(task_id, { status: "cancelling", cancel: { stage: "recorded", reason } });
    const { seq, status, attempt } = step ?? this.ledger.snapshot(task_id);
    const stage = ended ? "too_late" : "recorded";
    this.send({ type: "reply", id, ok: true, task_id, seq, status, attempt, repeat: false, cancel: { stage, seq, reason } });
    if (step) this.told(step);
  }

  on_refresh({ id, token }) {
    const ok = this.tokens === null || this.tokens.includes(token);
    const error = { code: "unauthenticated", message: "not valid", retryable: false };
    this.send(ok ? { type: "reply", id, ok } : { type: "reply", id, ok, error });
  }

  /** Something was committed. */
  told(step) {
    const sub = this.subs.get(step.task_id);
    if (!sub || step.seq <= sub.seq) return;
    sub.seq = step.seq;
    this.send(sub.mode === "latest" ? { type: "snapshot", task: this.ledger.snapshot(step.task_id) } : { type: "transition", ...step });
    if (ENDED.includes(step.status)) this.subs.delete(step.task_id);
  }

  bye(code, reason, retry, retry_after_ms = null) {
    this.send({ type: "bye", code, retry, retry_after_ms, reason, message: `Goodbye: ${reason}.` });
  }

  #watch(task_id, after, mode, waitMs) {
    const { ledger } = this;
    const { epoch } = ledger;
    const task = ledger.snapshot(task_id);
    this.subs.delete(task_id);
    if (task === null) {
      const waiting = Boolean(waitMs) && !(after?.seq > 0);
      this.send({ type: "subscribed", task_id, verdict: "unknown", epoch, seq: 0, recovered: waiting, waiting });
      if (waiting) this.subs.set(task_id, { seq: 0, mode });
      return;
    }
    const verdict = ledger.ended(task_id) ? "ended" : "live";
    const recovered = after !== undefined && after.epoch === epoch && after.seq <= task.seq;
    this.send({ type: "subscribed", task_id, verdict, epoch, seq: task.seq, recovered });
    if (after !== undefined && !recovered) {
      const reason = after.epoch === epoch ? "beyond_head" : "other_epoch";
      this.send({ type: "notice", kind: "jumped", task_id, reason, from: after, to: { epoch, seq: task.seq } });
    }
    const missed = recovered ? ledger.tasks.get(task_id).slice(after.seq) : [];
    if (recovered && mode === "all") for (const step of missed) this.send({ type: "transition", ...step });
    else if (!recovered || missed.length > 0) this.send({ type: "snapshot", task });
    if (verdict === "live") this.subs.set(task_id, { seq: task.seq, mode });
  }
}
