/** The token: asked for one at a time, kept, renewed when it expires, and once when it was refused. Pure. */
import type { TokenContext } from "../types.js";
import type { Effect } from "./effects.js";

export class Credentials {
  token: string | null = null;
  /** How often in a row a fresh token was refused. */
  private _refusals = 0;
  private _number = 0;
  private _deadlineAt: number | null = null;
  private _reason: TokenContext["reason"] = "start";

  constructor(
    /** Whether the application gives tokens at all. */
    private readonly _needed: boolean,
    private readonly _tokenMs: number,
  ) {}

  get ready(): boolean {
    return !this._needed || this.token !== null;
  }

  get asking(): boolean {
    return this._deadlineAt !== null;
  }

  /** Asks, unless an answer is on its way. */
  ask(now: number, out: Effect[], reason?: TokenContext["reason"]): void {
    if (!this._needed || this._deadlineAt !== null) return;
    this._number += 1;
    this._deadlineAt = now + this._tokenMs;
    out.push({ do: "token", number: this._number, reason: reason || this._reason });
  }

  /** Whether the answer is the one that is waited for. */
  answered(number: number, token: string | null): boolean {
    if (number !== this._number || this._deadlineAt === null) return false;
    this._deadlineAt = null;
    if (token !== null) this.token = token;
    return true;
  }

  overdue(now: number): boolean {
    if (this._deadlineAt === null || now < this._deadlineAt) return false;
    this._deadlineAt = null;
    return true;
  }

  /** The server has accepted the token. */
  accepted(): void {
    this._refusals = 0;
    this._reason = "start";
  }

  /** Whether to try with another one. `token`: the one that was refused; an older one says nothing about this. */
  refused(token: string | null): boolean {
    if (!this._needed) return false;
    if (token !== this.token) return true;
    this._refusals += 1;
    if (this._refusals > 1) return false;
    this.token = null;
    this._reason = "refused";
    return true;
  }

  next(): number | null {
    return this._deadlineAt;
  }
}
