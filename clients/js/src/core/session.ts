/**
 * What the client does, decided: an event and the time in, effects out. Waits for nothing, touches no socket, timer or
 * storage. The parts: `link` (the socket), `streams` (what is watched), `jobs` (cancels and HTTP), `poller`, `tokens`.
 *
 * In the background nothing is sent and nothing is opened; what is due then is done when the program is shown again.
 */
import type { Failure, State, Timing } from "../types.js";
import { failure, type Effect, type Event, type Message, type WireError } from "./effects.js";
import { frames, parsed } from "./frames.js";
import { makeJobs } from "./jobs.js";
import { makeLink } from "./link.js";
import { makePoller } from "./poller.js";
import { makeStreams } from "./streams.js";
import { NEVER } from "./timing.js";
import { makeTokens } from "./tokens.js";

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
export type Session = ReturnType<typeof makeSession>;

export function makeSession(settings: Settings) {
  const { pollAfter, timing, random } = settings;
  let effects: Effect[] = [];
  const emit = (effect: Effect) => {
    effects.push(effect);
  };
  let lastId = 0;
  const nextId = () => ++lastId;
  const link = makeLink(timing, random, settings.connectsPerVisit);
  const streams = makeStreams(timing, random, settings.unknownAnswers, emit);
  const jobs = makeJobs(timing, random, nextId);
  const tokens = makeTokens(settings.tokens, timing, emit);
  const poller = makePoller(timing, streams);

  let now = 0;
  let foreground = true;
  let hiddenAt = 0;
  let connected = true;
  let networkType = "";
  let stay = false;
  let idleAt = NEVER;
  let degraded = false;
  let over: Failure | null = null;
  let sentence = "";
  let told = "";

  let refreshId = 0;
  /** The token that the connection was given. */
  let shown: string | null = null;

  // ── how things are ────────────────────────────────────────────────────────────────────────────────────────────────

  const isUp = () => link.phase === "up";
  const wanted = () => stay || streams.any() || jobs.any();
  const may = () => wanted() && connected && tokens.next() === NEVER;
  const polling = () => pollAfter > 0 && link.misses >= pollAfter && !isUp() && connected && !over;
  const stateNow = (): State => {
    if (over) return "closed";
    if (isUp()) return "online";
    if (!wanted()) return "idle";
    if (!connected) return "offline";
    if (link.misses < (pollAfter || 3)) return "connecting";
    return polling() && poller.works() ? "polling" : "offline";
  };

  // ── the socket ────────────────────────────────────────────────────────────────────────────────────────────────────

  const send = (messages: Message[]): void => {
    for (const text of frames(messages)) emit({ do: "send", generation: link.generation, text });
  };
  const broken = () => {
    degraded = false;
    idleAt = NEVER;
    streams.interrupt();
    jobs.interrupt();
  };
  const leave = (retryAfterMs?: number | null) => {
    link.leave(now, retryAfterMs);
    emit({ do: "close", generation: link.generation });
    broken();
  };
  const probe = () => {
    if (link.probe(now)) send([{ type: "ping" }]);
  };
  const nudge = (at: number) => {
    if (!foreground) return;
    if (isUp()) probe();
    else link.hurry(at);
  };
  const save = (at: number) => {
    const text = streams.unsaved(at);
    if (text) emit({ do: "save", text });
  };
  const end = (api: string, code: string, message: string) => {
    if (over) return;
    over = failure(api, code, (sentence = message));
    if (link.alive()) leave();
    save(NEVER);
    if (code !== "closed") emit({ do: "error", failure: over });
  };

  /** The application has no token to give just now. */
  const noToken = (because: Failure) => {
    emit({ do: "error", failure: because });
    if (link.phase === "down") link.postpone(now);
    jobs.fail({ code: because.errCode, message: because.errMsg, retryable: true }, false, now);
  };
  const refused = (given: string | null, reason: string) => {
    if (!tokens.refused(given)) end("connect", "unauthenticated", reason);
  };

  // ── what comes over the socket ────────────────────────────────────────────────────────────────────────────────────

  const bye = (message: Message) => {
    const sentence = message.message || message.reason;
    if (/unauthenticated|expired/.test(message.reason)) {
      refused(shown, sentence);
      if (!over) leave(0);
    } else if (message.retry === false) end("connect", message.reason, sentence);
    else leave(message.retry_after_ms);
  };
  const notice = (message: Message) => {
    const { kind } = message;
    if (kind === "degraded" || kind === "restored") degraded = kind === "degraded";
    else if (kind === "token_expiring" && foreground) tokens.ask(now, "expiring");
    else if (kind === "jumped") streams.receive(message, now);
  };
  const reply = (message: Message) => {
    const error: WireError | null = message.ok ? null : message.error;
    if (message.id === refreshId) {
      if (error) emit({ do: "error", failure: failure("refresh", error.code, error.message) });
    } else {
      jobs.replied(message, now);
      streams.replied(message.id, error, now);
    }
  };
  const frame = (message: Message) => {
    const { type } = message;
    link.heard(now);
    if (type === "bye") bye(message);
    else if (type === "welcome") {
      link.welcomed(now, message.ping_interval_ms);
      streams.welcomed(message.epoch);
      tokens.accepted();
      poller.hurry();
    } else if (!isUp()) return;
    else if (type === "ping") {
      if (foreground) send([{ type: "pong" }]);
    } else if (type === "reply") reply(message);
    else if (type === "notice") notice(message);
    else if (type !== "pong") streams.receive(message, now);
  };
  const opened = () => {
    link.opened(now);
    const hello: Message = { type: "hello", v: 1, client: settings.client };
    shown = tokens.token();
    if (shown !== null) hello.token = shown;
    send([hello]);
  };

  // ── HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  const get = (path: string, done: (error: WireError | null, body: any, then: number) => void) =>
    jobs.add({ message: null, method: "GET", path, body: null, deadlineAt: now + timing.requestMs, done }, now);

  // ── in the foreground, after every event ──────────────────────────────────────────────────────────────────────────

  const step = () => {
    if (tokens.overdue(now)) noToken(failure("getToken", "timeout", "timeout", true));
    jobs.expire(now);
    save(now);
    if (wanted() || !isUp()) idleAt = NEVER;
    else if (now >= (idleAt = Math.min(idleAt, now + timing.idleMs))) leave(0);
    let due = link.step(now, may());
    if (due === "failed") {
      leave();
      due = link.step(now, may());
    }
    if (due === "open" && tokens.ready()) {
      link.open(now);
      emit({ do: "open", generation: link.generation });
    } else if (due === "open") tokens.ask(now);
    if (polling()) poller.step(now, get);
    const messages = isUp() ? streams.messages(now, nextId) : [];
    if (jobs.send(now, isUp(), polling(), tokens.ready() ? tokens.token() : undefined, messages, emit)) tokens.ask(now);
    send(messages);
  };

  const take = (event: Event): void => {
    switch (event.kind) {
      case "start":
        streams.load(event.stored, now);
        break;
      case "connect":
        stay = true;
        break;
      case "subscribe":
        streams.add(event.taskId, event.mode, event.after, event.waitMs, now);
        break;
      case "unsubscribe":
        streams.remove(event.taskId);
        break;
      case "cancel": {
        const { taskId, reason, key, settle } = event;
        const done = (error: WireError | null, value: any) => {
          const because = error && failure("cancel", error.code, error.message, error.retryable, taskId);
          emit({ do: "settle", settle, failure: because, value });
        };
        const path = "/v1/tasks/" + taskId + "/cancel";
        const body = JSON.stringify({ reason, key });
        const message = { type: "cancel", task_id: taskId, reason, key };
        jobs.add({ message, method: "POST", path, body, deadlineAt: now + event.timeoutMs, done }, now);
        break;
      }
      case "get":
        get(event.path, (error, value) => {
          const because = error && failure("history", error.code, error.message, error.retryable);
          emit({ do: "settle", settle: event.settle, failure: because, value });
        });
        break;
      case "show": {
        const absentMs = now - hiddenAt;
        if (foreground) return nudge(now);
        foreground = connected = true; // if there is still no network, that is said again
        poller.hurry();
        if (link.alive()) {
          if (link.outlives(now, absentMs)) probe();
          else leave(0);
        }
        link.hurry(now);
        break;
      }
      case "hide":
        if (foreground) hiddenAt = now;
        foreground = false;
        save(NEVER);
        break;
      case "nudge":
        nudge(now);
        break;
      case "network": {
        const other = event.connected !== connected || event.type !== networkType;
        connected = event.connected;
        networkType = event.type;
        if (connected && other) nudge(now + random() * NETWORK_JITTER_MS);
        break;
      }
      case "token": {
        const { token } = event;
        if (!tokens.answered(event.number, token)) return;
        if (event.failure) return noToken(event.failure);
        if (isUp() && foreground) send([{ type: "refresh", id: (refreshId = nextId()), token: (shown = token) }]);
        break;
      }
      case "answered": {
        const given = jobs.answered(event.number, event.failure, event.answer, now);
        if (given !== undefined) refused(given, "the token is refused");
        else if (event.answer && event.answer.status < 300) tokens.accepted();
        break;
      }
      case "forget":
        streams.forget();
        emit({ do: "save", text: null });
        break;
      case "close":
        end("ledgerwire", "closed", "closed");
        break;
      case "tick":
        break;
      default:
        socket(event);
    }
  };

  const socket = (event: Event & { generation: number }) => {
    const { kind, generation } = event;
    const current = generation === link.generation && link.alive();
    if (kind === "opened") {
      // What was given up while it was opening cannot be closed before now.
      if (!current) emit({ do: "close", generation });
      else if (foreground && tokens.ready()) opened();
      else leave();
    } else if (kind === "message") {
      const message = current && parsed(event.text);
      if (message) frame(message);
    } else if (kind === "failed") {
      if (current) leave();
    } else if (generation === link.generation) {
      const reason = kind === "refused" ? event.reason : "";
      link.gone(now, reason);
      if (reason === "no_socket") link.misses = Math.max(link.misses, pollAfter);
      broken();
    }
  };

  return {
    state: () => stateNow(),
    degraded: () => degraded,
    known: streams.known,

    /** What to do about an event. `at`: the absolute time in milliseconds. */
    receive(event: Event, at: number): Effect[] {
      now = at;
      const out: Effect[] = (effects = []);
      take(event);
      if (over) {
        // Also what was asked for by somebody who had not heard of it yet.
        jobs.fail({ code: over.errCode, message: sentence }, true, now);
        streams.fail(over);
      } else if (foreground) step();
      const state = stateNow();
      if (told !== (told = state + degraded)) {
        emit({ do: "state", state, degraded, failure: over && over.errCode !== "closed" ? over : null });
      }
      return out;
    },

    /** When `tick` is due; null: nothing is. In the background nothing ever is. */
    next(): number | null {
      if (!foreground || over) return null;
      const at = Math.min(
        link.next(may()), streams.next(isUp()), jobs.next(isUp(), polling(), tokens.ready()), tokens.next(), idleAt,
        polling() ? poller.next() : NEVER,
      ); // prettier-ignore
      return at < NEVER ? at : null;
    },
  };
}
