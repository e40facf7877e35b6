/**
 * What is asked once and answered once: cancels (over the socket, or HTTP while there is none), history and polls (HTTP).
 * Bounded in number and time; a cancel is sent again after each break until it is answered. Pure.
 */
import type { HttpAnswer } from "../platform.js";
import type { Timing } from "../types.js";
import type { Effect, Message, WireError } from "./effects.js";
import { backoffMs, NEVER } from "./timing.js";

const JOBS = 100;

export interface Job {
  /** For the socket; null: HTTP only. */
  message: Message | null;
  method: "GET" | "POST";
  path: string;
  body: string | null;
  deadlineAt: number;
  done: (error: WireError | null, body: any, now: number) => void;
}

interface Open extends Job {
  /** Wire id or number of the request; 0: not sent. */
  sentAs: number;
  overSocket: boolean;
  askAt: number;
  refusals: number;
  /** With which it was sent. */
  token: string | null;
}

export type Jobs = ReturnType<typeof makeJobs>;

const wireError = (code: string, message: string): WireError => ({ code, message, retryable: true });

/** The error in an HTTP answer; null: it is a good one. */
function errorOf(answer: HttpAnswer): WireError | null {
  const { status } = answer;
  const body = answer.body as Message | null;
  // What stands in between may say 200 as well, of something else.
  if (status < 300 && body && (body.tasks || body.cancel)) return null;
  const { code, detail, retryable, retry_after_ms } = body || {};
  if (code) return { code, message: detail, retryable, retry_after_ms };
  return { code: status === 401 ? "unauthenticated" : "bad_answer", message: "HTTP " + status, retryable: status !== 404 };
}

export function makeJobs(timing: Timing, random: () => number, nextId: () => number) {
  let open: Open[] = [];

  const end = (job: Open, error: WireError | null, body: any, now: number) => {
    if (open.indexOf(job) < 0) return;
    open = open.filter((one) => one !== job);
    job.done(error, body, now);
  };
  const sendable = (job: Open, up: boolean, polling: boolean) => !job.sentAs && (!job.message || up || polling);
  const answered = (job: Open, error: WireError | null, body: any, now: number): undefined => {
    job.sentAs = 0;
    if (error && error.retryable && job.message) {
      job.askAt = now + (error.retry_after_ms || backoffMs(++job.refusals, timing, random));
    } else end(job, error, body, now);
    return undefined;
  };

  return {
    /** Whether one waits for the socket. */
    any: () => open.some((job) => !!job.message),

    add(job: Job, now: number) {
      const added = Object.assign({ sentAs: 0, overSocket: false, askAt: now, refusals: 0, token: null }, job);
      open.push(added);
      if (open.length > JOBS) end(added, wireError("too_many", "too many requests"), null, now);
    },

    /** Gives the messages to send; HTTP requests go to `emit`, when there is a token. Whether one was needed. */
    send(now: number, up: boolean, polling: boolean, token: string | null | undefined, messages: Message[], emit: (effect: Effect) => void) {
      let wanted = false;
      for (const job of open) {
        const { message, method, path, body } = job;
        if (!sendable(job, up, polling) || now < job.askAt) continue;
        job.overSocket = up && !!message;
        if (!job.overSocket && token === undefined) {
          wanted = true;
          continue;
        }
        const number = (job.sentAs = nextId());
        if (job.overSocket) messages.push(Object.assign({ id: number }, message));
        else emit({ do: "request", number, method, path, body, token: (job.token = token!) });
      }
      return wanted;
    },

    /** A reply over the socket. */
    replied(message: Message, now: number) {
      for (const job of open) {
        if (job.overSocket && job.sentAs === message.id) answered(job, message.ok ? null : message.error, message, now);
      }
    },

    /** An answer over HTTP. Gives the token, if that was refused: then the job waits for another. */
    answered(number: number, reason: string | null, answer: HttpAnswer | null, now: number): string | null | undefined {
      for (const job of open) {
        if (job.overSocket || job.sentAs !== number) continue;
        const error = answer ? errorOf(answer) : wireError("network", reason || "");
        if (!error || error.code !== "unauthenticated") {
          return answered(job, error, answer && answer.body, now);
        }
        job.sentAs = 0;
        return job.token;
      }
      return undefined;
    },

    /** The socket is gone, and the replies with it. */
    interrupt() {
      for (const job of open) if (job.overSocket) job.sentAs = 0;
    },

    expire(now: number) {
      for (const job of open) if (now >= job.deadlineAt) end(job, wireError("timeout", "timeout"), null, now);
    },

    /** All of them, or only what waits for a token. */
    fail(error: WireError, all: boolean, now: number) {
      for (const job of open) if (all || (!job.message && !job.sentAs)) end(job, error, null, now);
    },

    /** `ready`: there is a token for HTTP. */
    next(up: boolean, polling: boolean, ready: boolean): number {
      let next = NEVER;
      for (const job of open) {
        const may = sendable(job, up, polling) && (ready || (up && job.message));
        next = Math.min(next, job.deadlineAt, may ? job.askAt : NEVER);
      }
      return next;
    },
  };
}
