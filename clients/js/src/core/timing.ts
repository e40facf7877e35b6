/** Times and the back-off. Pure. */
import type { Timing } from "../types.js";

export const DEFAULT_TIMING: Timing = {
  connectMs: 10_000,
  tokenMs: 15_000,
  requestMs: 10_000,
  cancelMs: 30_000,
  dyingMs: 2_000,
  probeMs: 3_000,
  silenceMs: 10_000,
  absenceMs: 5_000,
  suspendedRetryMs: 300,
  backoffFirstMs: 500,
  backoffMostMs: 30_000,
  socketLimitMs: 5_000,
  stableMs: 10_000,
  pollMs: 2_000,
  pollMostMs: 15_000,
  unknownMs: 2_000,
  idleMs: 60_000,
  saveMs: 1_000,
};

/** Full jitter: anywhere between nothing and a ceiling that doubles, so that a crowd does not come back at once. */
export function backoffMs(attempt: number, timing: Timing, random: () => number): number {
  return random() * Math.min(timing.backoffMostMs, timing.backoffFirstMs * Math.pow(2, Math.min(attempt, 16)));
}

export const NEVER = Infinity;
