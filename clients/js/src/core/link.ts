/**
 * The one socket: when to open, whether it lives, when to give it up. Pure; `now` is absolute, so that a program that
 * was frozen finds out when it wakes.
 *
 *     down ──▶ opening ──▶ greeting ──▶ up
 *      ▲          └───────────┴──────────┴──▶ dying ──▶ down
 *
 * Each socket has a generation; what comes of an older one is ignored. One that was closed is waited for (`dying`),
 * until it says so or its time is over, before the next is opened: there are never two.
 */
import type { Timing } from "../types.js";
import { backoffMs, NEVER } from "./timing.js";

/** Refused because the program is suspended, which it may still be for a moment after it is shown. */
const SUSPENDED = /suspend|interrupted/i;
const SUSPENDED_RETRIES = 100;
const TOO_MANY_SOCKETS = /exceed|too many|maximum|limit|最多/i;

export type Link = ReturnType<typeof makeLink>;

export function makeLink(timing: Timing, random: () => number, connectsPerVisit: number) {
  let deadlineAt = 0;
  let platformUntil = 0;
  let heardAt = 0;
  let answerBy = NEVER;
  let stableAt = NEVER;
  let pingMs = 25_000;
  let failures = 0;
  let suspended = 0;
  let retryAt = 0;
  /** Connections tried since the user came back, or one held. */
  let tried = 0;

  const deadAt = () => Math.min(heardAt + pingMs + timing.silenceMs, answerBy);
  const postpone = (now: number) => {
    if (link.phase !== "up") link.misses++;
    retryAt = now + backoffMs(failures++, timing, random);
  };

  const link = {
    phase: "down" as "down" | "opening" | "greeting" | "up" | "dying",
    generation: 0,
    /** Connections in a row that never came to `welcome`. */
    misses: 0,

    /** Whether a socket is in use. */
    alive: () => link.phase !== "down" && link.phase !== "dying",

    open(now: number) {
      link.phase = "opening";
      link.generation++;
      tried++;
      deadlineAt = now + timing.connectMs;
      // What was not open yet cannot be closed in a mini-program; its own time limit ends it.
      platformUntil = deadlineAt + timing.dyingMs;
    },

    opened(now: number) {
      link.phase = "greeting";
      deadlineAt = now + timing.connectMs;
      platformUntil = 0;
    },

    welcomed(now: number, ping: number) {
      link.phase = "up";
      link.misses = suspended = 0;
      pingMs = ping;
      stableAt = now + timing.stableMs;
    },

    heard(now: number) {
      heardAt = now;
      answerBy = NEVER;
    },

    /** `ping` is sent: an answer is wanted soon. False when one is waited for already. */
    probe(now: number) {
      if (link.phase !== "up" || answerBy < NEVER) return false;
      answerBy = now + timing.probeMs;
      return true;
    },

    /** The socket is to be closed. `retryAfterMs`: when to come back, if that is known. */
    leave(now: number, retryAfterMs?: number | null) {
      if (typeof retryAfterMs === "number") retryAt = now + retryAfterMs;
      else postpone(now);
      link.phase = "dying";
      deadlineAt = Math.max(now + timing.dyingMs, platformUntil);
    },

    /** The socket is gone; `refusal`: none was made. */
    gone(now: number, refusal?: string) {
      if (link.alive()) {
        if (refusal && SUSPENDED.test(refusal) && suspended++ < SUSPENDED_RETRIES) {
          tried--;
          retryAt = now + timing.suspendedRetryMs;
        } else {
          postpone(now);
          if (refusal && TOO_MANY_SOCKETS.test(refusal)) retryAt = Math.max(retryAt, now + timing.socketLimitMs);
        }
      }
      link.phase = "down";
    },

    /** As after a failed connection, without one: there is no token. */
    postpone,

    /** Come back at this time, as if nothing had failed. */
    hurry(at: number) {
      failures = tried = 0;
      retryAt = at;
    },

    /** In the foreground again: whether the socket can be trusted enough to ask it. */
    outlives(now: number, absentMs: number) {
      return absentMs < timing.absenceMs && (link.phase !== "up" || now < deadAt());
    },

    /** What is due; `may`: a connection is wanted and possible. Called in the foreground only. */
    step(now: number, may: boolean): "open" | "failed" | null {
      if (link.phase === "dying" && now >= deadlineAt) link.phase = "down";
      if (link.phase === "up" && now >= stableAt) {
        stableAt = NEVER;
        failures = tried = 0;
      }
      if (now < link.next(may)) return null;
      return link.phase === "down" ? "open" : "failed";
    },

    next(may: boolean): number {
      if (link.phase === "down") return may && tried < connectsPerVisit ? retryAt : NEVER;
      return link.phase === "up" ? Math.min(deadAt(), stableAt) : deadlineAt;
    },
  };
  return link;
}
