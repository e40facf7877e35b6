/**
 * What the client does, decided: an event and the time in, effects out. Waits for nothing, touches no socket, timer or
 * storage. The parts: `link` (the socket), `streams` (what is watched), `cancels`, `calls` (HTTP), `credentials`.
 *
 * In the background nothing is sent and nothing is opened; what is due then is done when the program is shown again.
 */
import type { Failure, State, Timing } from "../types.js";
import { Calls, type Outcome } from "./calls.js";
import { Cancels, reasonOf } from "./cancels.js";
import { Credentials } from "./credentials.js";
import { failure, type Effect, type Event, type Message } from "./effects.js";
import { Link } from "./link.js";
import { Poller } from "./poller.js";
import { Streams } from "./streams.js";
import { earlier } from "./timing.js";

export interface Settings {
  /** Whether there is a `getToken`. */
  tokens: boolean;
  unknownAnswers: number;
  pollAfter: number;
  client: string;
  timing: Timing;
  random: () => number;
  connectsPerVisit: number;
}

const NETWORK_JITTER_MS = 500;

export class Session {
  state: State = "idle";
  degraded = false;
  readonly streams: Streams;
  private readonly _link: Link;
  private readonly _cancels: Cancels;
  private readonly _calls = new Calls();
  private readonly _credentials: Credentials;
  private readonly _poller: Poller;
  private _started = false;
  private _foreground = true;
  private _connected = true;
  private _networkType = "";
  private _hiddenAt = 0;
  private _stay = false;
  private _idleAt: number | null = null;
  private _over: Failure | null = null;
  private _told = "";
  private _wireId = 0;
  private _refreshId = 0;
  private _out: Effect[] = [];

  constructor(private readonly _settings: Settings) {
    const { timing, random } = _settings;
    this.streams = new Streams(timing, random, _settings.unknownAnswers);
    this._link = new Link(timing, random, _settings.connectsPerVisit);
    this._cancels = new Cancels(timing, random);
    this._credentials = new Credentials(_settings.tokens, timing.tokenMs);
    this._poller = new Poller(timing);
  }

  /** What to do about an event. `now`: absolute, in milliseconds. */
  receive(event: Event, now: number): Effect[] {
    const out: Effect[] = (this._out = []);
    this._take(event, now);
    if (this._foreground && this._over === null && this._started) this._step(now);
    this._tellState();
    return out;
  }

  /** When `tick` is due; null: nothing is. In the background nothing ever is. */
  next(): number | null {
    if (!this._foreground || this.state === "closed" || !this._started) return null;
    const up = this._link.phase === "up";
    let at = earlier(this._link.next(this._may()), this.streams.next(up));
    at = earlier(at, this._cancels.next(up || this._polling()));
    at = earlier(at, earlier(this._calls.next(), this._credentials.next()));
    return earlier(earlier(at, this._idleAt), this._polling() ? this._poller.next() : null);
  }

  get connectMs(): number {
    return this._settings.timing.connectMs;
  }

  get requestMs(): number {
    return this._settings.timing.requestMs;
  }

  private _take(event: Event, now: number): void {
    const link = this._link;
    switch (event.kind) {
      case "start":
        this.streams.memory.load(event.stored, now);
        this._started = true;
        break;
      case "connect":
        this._stay = true;
        break;
      case "subscribe":
        this.streams.add(event.taskId, event.mode, event.after, event.waitMs, now);
        break;
      case "unsubscribe":
        this.streams.remove(event.taskId);
        break;
      case "cancel":
        this._cancels.add(Object.assign({ deadlineAt: now + event.timeoutMs }, event), now, this._out);
        break;
      case "get":
        this._get(event.ref, event.path, now);
        break;
      case "show":
        this._show(now);
        break;
      case "hide":
        if (this._foreground) this._hiddenAt = now;
        this._foreground = false;
        this._save();
        break;
      case "nudge":
        this._nudge(now, now);
        break;
      case "network":
        this._network(event.connected, event.type, now);
        break;
      case "opened":
        if (!link.is(event.generation)) this._out.push({ do: "close", generation: event.generation });
        else if (this._foreground) this._hello(now);
        else this._leave(now);
        break;
      case "message":
        if (link.is(event.generation)) this._frame(event.text, now);
        break;
      case "closed":
        if (event.generation !== link.generation) break;
        link.closed(now);
        this._broken();
        break;
      case "refused":
        if (event.generation !== link.generation) break;
        link.refused(now, event.reason);
        this._broken();
        if (event.reason === "no_socket") link.misses = Math.max(link.misses, this._settings.pollAfter);
        break;
      case "failed":
        if (link.is(event.generation)) this._leave(now);
        break;
      case "token":
        this._token(event.number, event.token, event.failure, now);
        break;
      case "answered": {
        const again = this._calls.answered(event.number, event.failure, event.answer, now, this._out);
        if (again !== null) this._refused(again.refused, "The server refuses the token.", now);
        break;
      }
      case "forget":
        this.streams.memory.clear();
        this.streams.saveAt = null;
        this._out.push({ do: "save", text: null });
        break;
      case "close":
        this._end(failure("ledgerwire", "closed", "the client was closed", false), now);
        break;
    }
  }

  // ── in the foreground, after every event ──────────────────────────────────────────────────────────────────────────

  private _step(now: number): void {
    const { _link: link, _credentials: credentials, _out: out } = this;
    if (credentials.overdue(now)) this._noToken(failure("getToken", "timeout", "timeout", true), now);
    this._calls.expire(now, out);
    this._cancels.expire(now, out);
    if (this.streams.saveAt !== null && now >= this.streams.saveAt) this._save();
    this._idle(now);
    let step = link.step(now, this._may());
    if (step === "failed") {
      this._leave(now);
      step = link.step(now, this._may());
    }
    if (step === "open") {
      if (credentials.ready) {
        link.open(now);
        out.push({ do: "open", generation: link.generation });
      } else credentials.ask(now, out);
    }
    if (link.phase === "up") {
      const nextId = () => ++this._wireId;
      this._send(this.streams.messages(now, nextId).concat(this._cancels.messages(now, nextId)));
    }
    if (this._polling()) {
      this._poller.step(now, this.streams, this._calls, out, (outcome) => this._accepted(outcome));
      this._cancels.call(now, this._calls, out);
    }
    if (this._calls.waiting) {
      if (credentials.ready) this._calls.send(credentials.token, out);
      else credentials.ask(now, out);
    }
  }

  private _wanted(): boolean {
    return this._stay || this.streams.any || this._cancels.any;
  }

  private _may(): boolean {
    return this._wanted() && this._connected && !this._credentials.asking;
  }

  private _polling(): boolean {
    const { pollAfter } = this._settings;
    const { phase, misses } = this._link;
    return pollAfter > 0 && misses >= pollAfter && phase !== "up" && this._connected && this._over === null;
  }

  private _idle(now: number): void {
    if (this._wanted() || this._link.phase !== "up") this._idleAt = null;
    else if (this._idleAt === null) this._idleAt = now + this._settings.timing.idleMs;
    else if (now >= this._idleAt) this._leave(now, 0);
  }

  // ── the program and its surroundings ──────────────────────────────────────────────────────────────────────────────

  private _show(now: number): void {
    if (this._foreground) return this._nudge(now, now);
    this._foreground = true;
    this._connected = true; // what was said before may be old; if it is still so, it is said again
    this._poller.hurry();
    const absentMs = now - this._hiddenAt;
    const { phase } = this._link;
    if (phase !== "down" && phase !== "dying") {
      if (!this._link.outlives(now, absentMs)) this._leave(now, 0);
      else this._probe(now);
    }
    this._link.hurry(now);
  }

  private _nudge(now: number, at: number): void {
    if (!this._foreground) return;
    if (this._link.phase === "up") this._probe(now);
    else this._link.hurry(at);
  }

  private _network(connected: boolean, type: string, now: number): void {
    const same = connected === this._connected && (type === this._networkType || this._networkType === "");
    this._connected = connected;
    this._networkType = type;
    if (connected && !same) this._nudge(now, now + this._settings.random() * NETWORK_JITTER_MS);
  }

  private _probe(now: number): void {
    if (this._link.probe(now)) this._send([{ type: "ping" }]);
  }

  // ── the socket ────────────────────────────────────────────────────────────────────────────────────────────────────

  private _hello(now: number): void {
    this._link.opened(now);
    const hello: Message = { type: "hello", v: 1, client: this._settings.client };
    if (this._credentials.token !== null) hello.token = this._credentials.token;
    this._send([hello]);
  }

  private _send(messages: Message[]): void {
    if (messages.length === 0) return;
    const text = JSON.stringify(messages.length === 1 ? messages[0] : messages);
    this._out.push({ do: "send", generation: this._link.generation, text });
  }

  private _leave(now: number, retryAfterMs?: number | null): void {
    this._link.leave(now, retryAfterMs);
    this._out.push({ do: "close", generation: this._link.generation });
    this._broken();
  }

  private _broken(): void {
    this.degraded = false;
    this._idleAt = null;
    this.streams.interrupt();
    this._cancels.interrupt();
  }

  private _frame(text: string, now: number): void {
    let message: Message | null = null;
    try {
      message = JSON.parse(text);
    } catch (error) {
      return;
    }
    if (message === null || typeof message !== "object") return;
    this._link.heard(now);
    if (this._link.phase === "greeting" && message.type !== "welcome" && message.type !== "bye") return;
    switch (message.type) {
      case "welcome":
        this._welcome(message, now);
        break;
      case "ping":
        if (this._foreground) this._send([{ type: "pong" }]);
        break;
      case "bye":
        this._bye(message, now);
        break;
      case "reply":
        if (message.id === this._refreshId) {
          if (!message.ok) this._out.push({ do: "error", failure: failure("refresh", message.error.code, message.error.message, false) });
        } else if (!this._cancels.replied(message, now, this._out)) this.streams.replied(message, now, this._out);
        break;
      case "notice":
        if (message.kind === "degraded" || message.kind === "restored") this.degraded = message.kind === "degraded";
        else if (message.kind === "token_expiring") this._credentials.ask(now, this._out, "expiring");
        else if (message.kind === "jumped") this.streams.receive(message, now, this._out);
        break;
      case "subscribed":
      case "transition":
      case "snapshot":
      case "liveness":
        this.streams.receive(message, now, this._out);
        break;
    }
  }

  private _welcome(message: Message, now: number): void {
    this._link.welcomed(now, message.ping_interval_ms);
    this._credentials.accepted();
    this.streams.welcomed(message.epoch);
    this._poller.stop(this._calls);
  }

  private _bye(message: Message, now: number): void {
    const reason = message.message || message.reason;
    if (/unauthenticated|expired|auth/.test(message.reason)) {
      this._refused(this._credentials.token, reason, now);
      if (this._over === null) this._leave(now, 0);
    } else if (message.retry === false) {
      this._end(failure("connect", message.reason, reason, false), now);
    } else {
      this._leave(now, message.retry_after_ms);
    }
  }

  // ── tokens and calls ──────────────────────────────────────────────────────────────────────────────────────────────

  private _token(number: number, token: string | null, because: Failure | null, now: number): void {
    if (!this._credentials.answered(number, token)) return;
    if (because !== null) this._noToken(because, now);
    else if (this._link.phase === "up" && this._foreground) {
      this._refreshId = ++this._wireId;
      this._send([{ type: "refresh", id: this._refreshId, token }]);
    }
  }

  /** The application has none to give just now. */
  private _noToken(because: Failure, now: number): void {
    this._out.push({ do: "error", failure: because });
    if (this._link.phase === "down") this._link.hindered(now);
    this._calls.fail(because.errCode, reasonOf(because), false, now, this._out);
  }

  private _accepted(outcome: Outcome): void {
    if (outcome.code === null) this._credentials.accepted();
  }

  private _refused(token: string | null, reason: string, now: number): void {
    if (!this._credentials.refused(token)) this._end(failure("connect", "unauthenticated", reason, false), now);
  }

  private _get(ref: number, path: string, now: number): void {
    const settle = (outcome: Outcome, _now: number, out: Effect[]) => {
      this._accepted(outcome);
      const { code, reason, retryable, body } = outcome;
      const because = code === null ? null : failure("history", code, reason, retryable);
      out.push({ do: "settle", ref, failure: because, value: body });
    };
    this._calls.add("GET", path, null, now + this._settings.timing.requestMs, settle, now, this._out);
  }

  // ── the end, and what is told of it ───────────────────────────────────────────────────────────────────────────────

  private _save(): void {
    if (this.streams.saveAt === null) return;
    this.streams.saveAt = null;
    this._out.push({ do: "save", text: this.streams.memory.dump() });
  }

  private _end(because: Failure, now: number): void {
    if (this._over !== null) return;
    this._over = because;
    const { phase } = this._link;
    if (phase !== "down" && phase !== "dying") this._leave(now);
    this._save();
    this._calls.fail(because.errCode, reasonOf(because), true, now, this._out);
    this._cancels.fail(because, this._out);
    this.streams.fail(because, this._out);
    if (because.errCode !== "closed") this._out.push({ do: "error", failure: because });
  }

  private _stateNow(): State {
    const { phase, misses } = this._link;
    if (this._over !== null) return "closed";
    if (phase === "up") return "online";
    if (!this._wanted()) return "idle";
    if (!this._connected) return "offline";
    if (misses < (this._settings.pollAfter || 3)) return "connecting";
    return this._polling() && this._poller.works ? "polling" : "offline";
  }

  private _tellState(): void {
    const state = this._stateNow();
    const told = state + this.degraded;
    if (told === this._told) return;
    this._told = told;
    this.state = state;
    const because = this._over !== null && this._over.errCode !== "closed" ? this._over : null;
    this._out.push({ do: "state", state, degraded: this.degraded, failure: because });
  }
}
