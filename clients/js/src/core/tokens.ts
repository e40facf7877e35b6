/** The token: one question at a time, renewed when it expires, and once when it was refused. Pure. */
import type { Timing, TokenContext } from "../types.js";
import type { Effect } from "./effects.js";
import { NEVER } from "./timing.js";

/** `needed`: whether the application gives tokens at all. */
export function makeTokens(needed: boolean, timing: Timing, emit: (effect: Effect) => void) {
  let token: string | null = null;
  let number = 0;
  let answerBy = NEVER;
  let why: TokenContext["reason"] = "start";
  /** How often in a row one was refused. */
  let refusals = 0;

  return {
    token: () => token,
    ready: () => !needed || token !== null,
    /** When an answer is overdue; NEVER: none is waited for. */
    next: () => answerBy,

    /** Asks, unless an answer is on its way. */
    ask(now: number, reason?: TokenContext["reason"]) {
      if (!needed || answerBy < NEVER) return;
      answerBy = now + timing.tokenMs;
      emit({ do: "token", number: ++number, reason: reason || why });
    },

    /** Whether it is the answer that is waited for; null: there is no token. */
    answered(to: number, given: string | null): boolean {
      if (to !== number || answerBy === NEVER) return false;
      answerBy = NEVER;
      token = given || token;
      return true;
    },

    overdue(now: number): boolean {
      if (now < answerBy) return false;
      answerBy = NEVER;
      return true;
    },

    /** The server has taken it. */
    accepted() {
      refusals = 0;
      why = "start";
    },

    /** Whether to try with another. A token that is not the present one says nothing about it. */
    refused(given: string | null): boolean {
      if (!needed) return false;
      if (given !== token) return true;
      token = null;
      why = "refused";
      return refusals++ < 1;
    },
  };
}
