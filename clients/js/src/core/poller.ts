/** Asks for states over HTTP while there is no socket: one request at a time, slower when nothing changes. Pure. */
import type { Timing } from "../types.js";
import type { Calls, Outcome } from "./calls.js";
import type { Effect } from "./effects.js";
import type { Streams } from "./streams.js";

const SLOWER_UNCHANGED = 1.25;
const SLOWER_FAILED = 2;

export class Poller {
  /** Whether the last poll was answered. */
  works = false;
  private _at = 0;
  private _call = 0;
  private _pauseMs: number;

  constructor(private readonly _timing: Timing) {
    this._pauseMs = _timing.pollMs;
  }

  /** Asks, when it is time. */
  step(now: number, streams: Streams, calls: Calls, out: Effect[], answered: (outcome: Outcome) => void): void {
    if (this._call !== 0 || now < this._at || !streams.any) return;
    const settle = (outcome: Outcome, then: number, thenOut: Effect[]) => {
      this._call = 0;
      this.works = outcome.code === null;
      answered(outcome);
      const changed = this.works && streams.polled(outcome.body, then, thenOut);
      const slower = this._pauseMs * (this.works ? SLOWER_UNCHANGED : SLOWER_FAILED);
      this._pauseMs = changed ? this._timing.pollMs : Math.min(this._timing.pollMostMs, slower);
      this._at = then + (outcome.retryAfterMs || this._pauseMs);
    };
    this._call = calls.add("GET", streams.pollPath(), null, now + this._timing.requestMs, settle, now, out);
  }

  /** The next one now. */
  hurry(): void {
    this._at = 0;
    this._pauseMs = this._timing.pollMs;
  }

  /** There is a socket. */
  stop(calls: Calls): void {
    if (this._call !== 0) calls.drop(this._call);
    this._call = 0;
    this.works = false;
    this.hurry();
  }

  next(): number | null {
    return this._call === 0 ? this._at : null;
  }
}
