/**
 * HTTP requests that carry the token: polls, history, cancels without a socket. One answer each, bounded in number and
 * time; a token that is refused is renewed once. Pure.
 */
import type { HttpAnswer } from "../platform.js";
import type { Effect } from "./effects.js";

const CALLS = 20;

export interface Call {
  number: number;
  method: "GET" | "POST";
  path: string;
  body: string | null;
  deadlineAt: number;
  sent: boolean;
  token: string | null;
  settle: Settle;
}

export type Settle = (outcome: Outcome, now: number, out: Effect[]) => void;

/** `code` is null when there is a good answer. */
export interface Outcome {
  code: string | null;
  reason: string;
  retryable: boolean;
  retryAfterMs: number | null;
  body: any;
}

function failed(code: string, reason: string): Outcome {
  return { code, reason, retryable: true, retryAfterMs: null, body: null };
}

function outcomeOf(answer: HttpAnswer): Outcome {
  const body = answer.body as any;
  const known = body !== null && typeof body === "object";
  if (answer.status >= 200 && answer.status < 300) {
    if (!known) return failed("bad_answer", "the answer is not JSON");
    return { code: null, reason: "", retryable: false, retryAfterMs: null, body };
  }
  const said = known && typeof body.code === "string";
  return {
    code: said ? body.code : answer.status === 401 ? "unauthenticated" : "bad_answer",
    reason: said && body.detail ? String(body.detail) : "HTTP " + answer.status,
    retryable: said ? body.retryable === true : answer.status >= 500 || answer.status === 429,
    retryAfterMs: known && typeof body.retry_after_ms === "number" ? body.retry_after_ms : null,
    body: null,
  };
}

export class Calls {
  private _calls: Call[] = [];
  private _next = 0;

  /** `settle` is called once, from here or from a later event. Its number, or 0 when there are too many. */
  add(
    method: Call["method"], path: string, body: string | null, deadlineAt: number, settle: Settle,
    now: number, out: Effect[],
  ): number {
    if (this._calls.length >= CALLS) {
      settle(failed("too_many", "too many requests at once"), now, out);
      return 0;
    }
    const number = ++this._next;
    this._calls.push({ number, method, path, body, deadlineAt, sent: false, token: null, settle });
    return number;
  } // prettier-ignore

  /** Whether something waits for a token or the foreground. */
  get waiting(): boolean {
    return this._calls.some((call) => !call.sent);
  }

  send(token: string | null, out: Effect[]): void {
    for (const call of this._calls) {
      if (call.sent) continue;
      call.sent = true;
      call.token = token;
      out.push({ do: "request", number: call.number, method: call.method, path: call.path, body: call.body, token });
    }
  }

  /** The token that was refused, when the same call is to be sent again with another one. */
  answered(
    number: number, reason: string | null, answer: HttpAnswer | null, now: number, out: Effect[],
  ): { refused: string | null } | null {
    const call = this._calls.filter((one) => one.number === number)[0];
    if (call === undefined) return null;
    const outcome = answer === null ? failed("network", reason || "no answer") : outcomeOf(answer);
    if (outcome.code === "unauthenticated") {
      call.sent = false;
      return { refused: call.token };
    }
    this._end(call, outcome, now, out);
    return null;
  } // prettier-ignore

  drop(number: number): void {
    this._calls = this._calls.filter((one) => one.number !== number);
  }

  expire(now: number, out: Effect[]): void {
    for (const call of this._calls.slice()) {
      if (now >= call.deadlineAt) this._end(call, failed("timeout", "timeout"), now, out);
    }
  }

  /** All of them, or only those that are not sent yet. */
  fail(code: string, reason: string, all: boolean, now: number, out: Effect[]): void {
    for (const call of this._calls.slice()) {
      if (all || !call.sent) this._end(call, failed(code, reason), now, out);
    }
  }

  next(): number | null {
    return this._calls.length === 0 ? null : Math.min.apply(null, this._calls.map((call) => call.deadlineAt));
  }

  private _end(call: Call, outcome: Outcome, now: number, out: Effect[]): void {
    this.drop(call.number);
    call.settle(outcome, now, out);
  }
}
