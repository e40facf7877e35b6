/** Asks for states over HTTP while there is no socket: one request at a time, slower when nothing changes. Pure. */
import type { Timing } from "../types.js";
import type { WireError } from "./effects.js";
import type { Streams } from "./streams.js";
import { NEVER } from "./timing.js";

const SLOWER_UNCHANGED = 1.25;
const SLOWER_FAILED = 2;

export type Get = (path: string, done: (error: WireError | null, body: any, now: number) => void) => void;

export function makePoller(timing: Timing, streams: Streams) {
  let at = 0;
  let pauseMs = timing.pollMs;
  let asking = false;
  let works = false;
  /** What was asked before there was a socket says nothing new. */
  let round = 0;

  const next = () => (asking || !streams.any() ? NEVER : at);

  return {
    /** Whether the last poll was answered. */
    works: () => works,
    next,

    /** Asks, when it is time. */
    step(now: number, get: Get) {
      if (now < next()) return;
      const mine = round;
      asking = true;
      get(streams.pollPath(), (error, body, then) => {
        asking = false;
        works = !error;
        const changed = !error && mine === round && streams.polled(body, then);
        pauseMs = changed ? timing.pollMs : Math.min(timing.pollMostMs, pauseMs * (error ? SLOWER_FAILED : SLOWER_UNCHANGED));
        at = then + ((error && error.retry_after_ms) || pauseMs);
      });
    },

    /** There is a socket, or the user is back: the next one at once. */
    hurry() {
      round++;
      at = 0;
      pauseMs = timing.pollMs;
    },
  };
}
