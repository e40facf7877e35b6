/** Cancel requests until they are answered: sent again after each break, over the socket or HTTP. Pure. */
import type { Failure, Receipt, Timing } from "../types.js";
import type { Calls, Outcome } from "./calls.js";
import { failure, type Effect, type Message } from "./effects.js";
import { backoffMs, earlier } from "./timing.js";

const CANCELS = 100;

interface Cancel {
  ref: number;
  taskId: string;
  reason: string | undefined;
  /** Repeated with the same key, so that a repeat is known as one even after the worker has refused. */
  key: string;
  deadlineAt: number;
  askAt: number;
  refusals: number;
  wireId: number;
  call: number;
}

export class Cancels {
  private _open: Cancel[] = [];

  constructor(
    private readonly _timing: Timing,
    private readonly _random: () => number,
  ) {}

  get any(): boolean {
    return this._open.length > 0;
  }

  add(cancel: Pick<Cancel, "ref" | "taskId" | "reason" | "key" | "deadlineAt">, now: number, out: Effect[]): void {
    const { ref, taskId, reason, key, deadlineAt } = cancel;
    if (this._open.length >= CANCELS) {
      const refused = failure("cancel", "too_many", "too many cancel requests at once", true, taskId);
      out.push({ do: "settle", ref, failure: refused, value: null });
      return;
    }
    this._open.push({ ref, taskId, reason, key, deadlineAt, askAt: now, refusals: 0, wireId: 0, call: 0 });
  }

  /** The messages to send over the socket now. */
  messages(now: number, nextId: () => number): Message[] {
    return this._due(now).map((one) => {
      one.wireId = nextId();
      const message: Message = { type: "cancel", id: one.wireId, task_id: one.taskId, key: one.key };
      if (one.reason !== undefined) message.reason = one.reason;
      return message;
    });
  }

  /** Sends over HTTP what waits. */
  call(now: number, calls: Calls, out: Effect[]): void {
    for (const one of this._due(now)) {
      const path = "/v1/tasks/" + encodeURIComponent(one.taskId) + "/cancel";
      const body = JSON.stringify({ reason: one.reason, key: one.key });
      const settle = (outcome: Outcome, then: number, thenOut: Effect[]) => {
        one.call = 0;
        this._settle(one, outcome, then, thenOut);
      };
      one.call = calls.add("POST", path, body, one.deadlineAt, settle, now, out);
    }
  }

  /** Takes a reply; false when it is none of ours. */
  replied(message: Message, now: number, out: Effect[]): boolean {
    const one = this._open.filter((open) => open.wireId !== 0 && open.wireId === message.id)[0];
    if (one === undefined) return false;
    one.wireId = 0;
    const error = message.error || {};
    this._settle(one, {
      code: message.ok ? null : error.code, reason: error.message, retryable: error.retryable === true,
      retryAfterMs: error.retry_after_ms, body: message,
    }, now, out); // prettier-ignore
    return true;
  }

  /** The socket is gone, and the replies with it. */
  interrupt(): void {
    for (const one of this._open) one.wireId = 0;
  }

  expire(now: number, out: Effect[]): void {
    for (const one of this._open.slice()) if (now >= one.deadlineAt) this._fail(one, "timeout", "timeout", true, out);
  }

  fail(because: Failure, out: Effect[]): void {
    for (const one of this._open.slice()) this._fail(one, because.errCode, reasonOf(because), because.retryable, out);
  }

  next(sendable: boolean): number | null {
    let at: number | null = null;
    for (const one of this._open) {
      at = earlier(at, one.deadlineAt);
      if (sendable && one.wireId === 0 && one.call === 0) at = earlier(at, one.askAt);
    }
    return at;
  }

  private _due(now: number): Cancel[] {
    return this._open.filter((one) => one.wireId === 0 && one.call === 0 && now >= one.askAt);
  }

  private _settle(one: Cancel, outcome: Outcome, now: number, out: Effect[]): void {
    if (this._open.indexOf(one) < 0) return;
    if (outcome.code === null) {
      this._end(one);
      out.push({ do: "settle", ref: one.ref, failure: null, value: receiptOf(outcome.body) });
    } else if (outcome.retryable) {
      one.refusals += 1;
      one.askAt = now + (outcome.retryAfterMs || backoffMs(one.refusals, this._timing, this._random));
    } else {
      this._fail(one, outcome.code, outcome.reason, false, out);
    }
  }

  private _fail(one: Cancel, code: string, reason: string, retryable: boolean, out: Effect[]): void {
    this._end(one);
    out.push({ do: "settle", ref: one.ref, failure: failure("cancel", code, reason, retryable, one.taskId), value: null });
  }

  private _end(one: Cancel): void {
    this._open = this._open.filter((open) => open !== one);
  }
}

export function reasonOf(because: Failure): string {
  return because.errMsg.replace(/^[^:]*:fail /, "");
}

function receiptOf(message: Message): Receipt {
  const { task_id, seq, status, attempt, repeat, cancel } = message;
  return { task_id, seq, status, attempt, repeat, cancel };
}
