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
import { backoffMs, earlier } from "./timing.js";

export type Phase = "down" | "opening" | "greeting" | "up" | "dying";
export type Step = "open" | "failed" | null;

/** Refused because the program is suspended, which it may still be for a moment after it is shown. */
const SUSPENDED = /suspend|interrupted/i;
const SUSPENDED_RETRIES = 100;
const TOO_MANY_SOCKETS = /exceed|too many|maximum|max |limit|最多/i;

export class Link {
  phase: Phase = "down";
  generation = 0;
  /** Connections in a row that never came to `welcome`. */
  misses = 0;
  heardAt = 0;
  retryAt = 0;
  /** Connections tried since the user came back. */
  tried = 0;
  private _deadlineAt = 0;
  private _probedAt: number | null = null;
  private _stableAt: number | null = null;
  private _pingMs = 25_000;
  private _failures = 0;
  private _suspended = 0;
  private _platformUntil = 0;
  private _reached = false;

  constructor(
    private readonly _timing: Timing,
    private readonly _random: () => number,
    private readonly _connectsPerVisit: number,
  ) {}

  /** Whether the socket of this generation is the one that counts. */
  is(generation: number): boolean {
    return generation === this.generation && this.phase !== "down" && this.phase !== "dying";
  }

  get exhausted(): boolean {
    return this.tried >= this._connectsPerVisit;
  }

  open(now: number): void {
    this.phase = "opening";
    this.generation += 1;
    this.tried += 1;
    this._reached = false;
    this._deadlineAt = now + this._timing.connectMs;
    // What was not open yet cannot be closed in a mini-program; its own time limit ends it.
    this._platformUntil = this._deadlineAt + this._timing.dyingMs;
  }

  opened(now: number): void {
    this.phase = "greeting";
    this._reached = true;
    this._deadlineAt = now + this._timing.connectMs;
    this.heardAt = now;
  }

  welcomed(now: number, pingMs: number): void {
    this.phase = "up";
    this.misses = this._suspended = 0;
    this._pingMs = pingMs;
    this._probedAt = null;
    this._stableAt = now + this._timing.stableMs;
  }

  heard(now: number): void {
    this.heardAt = now;
    this._probedAt = null;
  }

  /** Says that `ping` is to be sent: an answer is wanted soon. */
  probe(now: number): boolean {
    if (this.phase !== "up" || this._probedAt !== null) return false;
    this._probedAt = now;
    return true;
  }

  /** The socket is to be closed; `retryAfterMs`: when the server has said when to come back. */
  leave(now: number, retryAfterMs?: number | null): void {
    const reached = this._reached;
    if (typeof retryAfterMs === "number") this.retryAt = now + retryAfterMs;
    else this._postpone(now);
    this.phase = "dying";
    this._deadlineAt = Math.max(now + this._timing.dyingMs, reached ? 0 : this._platformUntil);
  }

  /** The socket is gone by itself. */
  closed(now: number): void {
    if (this.phase !== "dying") this._postpone(now);
    this.phase = "down";
  }

  /** No socket was made. */
  refused(now: number, reason: string): void {
    if (this.phase !== "dying") {
      if (SUSPENDED.test(reason) && this._suspended < SUSPENDED_RETRIES) {
        this._suspended += 1;
        this.tried -= 1;
        this.retryAt = now + this._timing.suspendedRetryMs;
      } else {
        this._postpone(now);
        if (TOO_MANY_SOCKETS.test(reason)) this.retryAt = Math.max(this.retryAt, now + this._timing.socketLimitMs);
      }
    }
    this.phase = "down";
  }

  /** The same as for a failed connection, without one: there is no token. */
  hindered(now: number): void {
    this._postpone(now);
  }

  /** Come back now, as if nothing had failed. */
  hurry(at: number): void {
    this._failures = 0;
    this.tried = 0;
    this.retryAt = at;
  }

  /** In the foreground again: whether the socket can be trusted enough to ask it; else it is to be left. */
  outlives(now: number, absentMs: number): boolean {
    const short = absentMs < this._timing.absenceMs;
    return this.phase === "up" ? short && now - this.heardAt < this._pingMs + this._timing.silenceMs : short;
  }

  /** What is due; `may`: a new connection is wanted and possible. Called in the foreground only. */
  step(now: number, may: boolean): Step {
    const { phase } = this;
    if (phase === "dying" && now >= this._deadlineAt) {
      this.phase = "down";
      return this.step(now, may);
    }
    if (phase === "down") return may && now >= this.retryAt && !this.exhausted ? "open" : null;
    if (phase === "opening" || phase === "greeting") return now >= this._deadlineAt ? "failed" : null;
    if (phase !== "up") return null;
    if (now >= this._deadAt()) return "failed";
    if (this._stableAt !== null && now >= this._stableAt) {
      this._stableAt = null;
      this._failures = 0;
    }
    return null;
  }

  next(may: boolean): number | null {
    const { phase } = this;
    if (phase === "down") return may && !this.exhausted ? this.retryAt : null;
    return phase === "up" ? earlier(this._deadAt(), this._stableAt) : this._deadlineAt;
  }

  private _deadAt(): number {
    const silent = this.heardAt + this._pingMs + this._timing.silenceMs;
    return this._probedAt === null ? silent : Math.min(silent, this._probedAt + this._timing.probeMs);
  }

  private _postpone(now: number): void {
    if (this.phase !== "up") this.misses += 1;
    this.retryAt = now + backoffMs(this._failures, this._timing, this._random);
    this._failures += 1;
    this._probedAt = this._stableAt = null;
  }
}
