/** What comes into the session and what it asks for, as values. */
import type { HttpAnswer } from "../platform.js";
import type { Change, Cursor, Failure, Receipt, State, Task, TokenContext } from "../types.js";

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
  | { kind: "cancel"; ref: number; taskId: string; reason: string | undefined; key: string; timeoutMs: number }
  | { kind: "get"; ref: number; path: string };

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
  | { do: "settle"; ref: number; failure: Failure | null; value: Receipt | unknown }
  | { do: "error"; failure: Failure };

export type Message = { [name: string]: any };

/** A dictionary that knows no other names than its own: ids such as "constructor" are legal. */
export function dictionary<T>(): { [id: string]: T } {
  return Object.create(null);
}

export function failure(api: string, code: string, reason: string, retryable: boolean, taskId?: string): Failure {
  const made: Failure = { errMsg: api + ":fail " + reason, errCode: code, retryable };
  if (taskId !== undefined) made.task_id = taskId;
  return made;
}
