/** What comes into the session and what it asks for, as values. */
import type { HttpAnswer } from "../platform.js";
import type { Change, Cursor, Failure, State, Task, TokenContext } from "../types.js";

export type Settle = (failure: Failure | null, value: any) => void;

export type Event =
  | { kind: "start"; stored: string | null }
  | { kind: "tick" | "show" | "hide" | "nudge" | "connect" | "close" | "forget" }
  | { kind: "network"; connected: boolean; type: string }
  | { kind: "opened" | "closed"; generation: number }
  /** `refused`: no socket was made. `failed`: one was, and is of no use any more. */
  | { kind: "failed" | "refused"; generation: number; reason: string }
  | { kind: "message"; generation: number; text: string }
  | { kind: "token"; number: number; token: string | null; failure: Failure | null }
  | { kind: "answered"; number: number; failure: string | null; answer: HttpAnswer | null }
  | { kind: "subscribe"; taskId: string; mode: "all" | "latest"; after: Cursor | null | undefined; waitMs: number }
  | { kind: "unsubscribe"; taskId: string }
  | { kind: "cancel"; taskId: string; reason: string | undefined; key: string; timeoutMs: number; settle: Settle }
  | { kind: "get"; path: string; settle: Settle };

export type Effect =
  | { do: "open" | "close"; generation: number }
  | { do: "send"; generation: number; text: string }
  | { do: "token"; number: number; reason: TokenContext["reason"] }
  | { do: "request"; number: number; method: "GET" | "POST"; path: string; body: string | null; token: string | null }
  | { do: "save"; text: string | null }
  | { do: "state"; state: State; degraded: boolean; failure: Failure | null }
  | { do: "tell"; taskId: string; task: Task; change: Change; cursor: Cursor | null }
  /** Nothing else will come of this task. */
  | { do: "over"; taskId: string; failure: Failure | null }
  | { do: "settle"; settle: Settle; failure: Failure | null; value: any }
  | { do: "error"; failure: Failure };

export type Message = { [name: string]: any };
/** An `error` of docs/protocol.md. */
export type WireError = { code: string; message: string; retryable?: boolean; retry_after_ms?: number | null };
export type Dictionary<T> = { [id: string]: T };

/** Knows no other names than its own: ids such as "constructor" are legal. */
export function dictionary<T>(): Dictionary<T> {
  return Object.create(null);
}

export function failure(api: string, code: string, reason: string, retryable?: boolean, taskId?: string): Failure {
  const made: Failure = { errMsg: api + ":fail " + reason, errCode: code, retryable: !!retryable };
  if (taskId) made.task_id = taskId;
  return made;
}

/** What was thrown, or given to `fail`, in words. */
export function messageOf(error: any): string {
  return String((error && (error.errMsg || error.message)) || error);
}
