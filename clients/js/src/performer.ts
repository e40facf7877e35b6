/** Performs the session's effects on a platform: sockets, one timer, requests, storage. Decides nothing. */
import { dictionary, failure, messageOf, type Effect, type Event } from "./core/effects.js";
import { makeSession, type Settings } from "./core/session.js";
import type { Platform, Socket } from "./platform.js";
import type { Failure, TokenContext } from "./types.js";

/** Sockets that were given up and may still open late; more would mean that the platform never says that one closed. */
const SOCKETS = 4;

export interface Surroundings {
  platform: Platform;
  url: string;
  httpUrl: string;
  storageKey: string | null;
  getToken?: (context: TokenContext) => string | Promise<string>;
  /** Takes what is for the application: tell, over, settle, state, error. */
  told: (effect: Effect) => void;
}

export function perform(around: Surroundings, settings: Settings) {
  const { platform, url, httpUrl, storageKey, getToken, told } = around;
  const { timing } = settings;
  const session = makeSession(settings);
  const sockets = dictionary<Socket>();
  const storage = storageKey === null ? null : platform.storage;
  const queue: Event[] = [];
  /** At first: what was stored is read before anything else is dealt with. */
  let busy = true;
  let timer: unknown = null;
  let stopListening: (() => void) | null = null;
  let start!: (stored: string | null) => void;

  const open = (generation: number) => {
    const gone = (event: Event) => {
      delete sockets[generation];
      happened(event);
    };
    delete sockets[generation - SOCKETS];
    try {
      sockets[generation] = platform.connect(url, timing.connectMs, {
        opened: () => happened({ kind: "opened", generation }),
        message: (text) => happened({ kind: "message", generation, text }),
        closed: () => gone({ kind: "closed", generation }),
        failed: (reason) => happened({ kind: "failed", generation, reason }),
        refused: (reason) => gone({ kind: "refused", generation, reason }),
      });
    } catch (error) {
      gone({ kind: "refused", generation, reason: "no_socket" });
    }
  };
  const onSocket = (generation: number, act: (socket: Socket) => void) => {
    try {
      if (sockets[generation]) act(sockets[generation]!);
    } catch (error) {
      happened({ kind: "failed", generation, reason: messageOf(error) });
    }
  };
  const askToken = (number: number, reason: TokenContext["reason"]) => {
    const answered = (token: string | null, because: Failure | null) => happened({ kind: "token", number, token, failure: because });
    const none = (error: unknown) => {
      const because = failure("getToken", "get_token", messageOf(error), true);
      because.cause = error;
      answered(null, because);
    };
    new Promise<string>((resolve) => resolve(getToken!({ reason }))).then(
      (token) => (token && typeof token === "string" ? answered(token, null) : none("getToken gave no text")),
      none,
    );
  };
  const request = (effect: Effect & { do: "request" }) => {
    const { number, method, path, body, token } = effect;
    const headers: Record<string, string> = {};
    if (token !== null) headers.Authorization = "Bearer " + token;
    if (body !== null) headers["Content-Type"] = "application/json";
    const answered = (because: string | null, answer: any) => happened({ kind: "answered", number, failure: because, answer });
    try {
      platform.request({ method, url: httpUrl + path, path, headers, body, timeoutMs: timing.requestMs }, answered);
    } catch (error) {
      answered(messageOf(error), null);
    }
  };
  const unsaved = (reason: string) => told({ do: "error", failure: failure("storage", "storage", reason, true) });
  const save = (text: string | null) => {
    try {
      if (storage && text !== null) storage.set(storageKey!, text, unsaved);
      else if (storage) storage.remove(storageKey!);
    } catch (error) {
      unsaved(messageOf(error));
    }
  };
  const act = (effect: Effect) => {
    if (effect.do === "open") open(effect.generation);
    else if (effect.do === "send") onSocket(effect.generation, (socket) => socket.send(effect.text));
    else if (effect.do === "close") onSocket(effect.generation, (socket) => socket.close());
    else if (effect.do === "token") askToken(effect.number, effect.reason);
    else if (effect.do === "request") request(effect);
    else if (effect.do === "save") save(effect.text);
    else told(effect);
  };
  const wake = () => {
    timer = null;
    happened({ kind: "tick" });
  };

  /** Events that come while others are dealt with (a handler that subscribes) wait for their turn. */
  const happened = (event: Event) => {
    queue.push(event);
    if (busy) return;
    busy = true;
    let next: Event | undefined;
    while ((next = queue.shift())) session.receive(next, platform.now()).forEach(act);
    busy = false;
    if (timer !== null) platform.clearTimer(timer);
    const at = session.next();
    timer = at === null ? null : platform.setTimer(wake, Math.max(0, at - platform.now()));
    if (stopListening && session.state() === "closed") {
      stopListening();
      stopListening = null;
    }
  };

  const ready = new Promise<void>((resolve) => {
    start = (stored) => {
      queue.unshift({ kind: "start", stored });
      busy = false;
      happened({ kind: "tick" });
      resolve();
    };
  });
  stopListening = platform.listen({
    show: () => happened({ kind: "show" }),
    hide: () => happened({ kind: "hide" }),
    nudge: () => happened({ kind: "nudge" }),
    network: (connected, type) => happened({ kind: "network", connected, type }),
  });
  if (storage) storage.get(storageKey!, start);
  else start(null);
  return { session, happened, ready };
}
