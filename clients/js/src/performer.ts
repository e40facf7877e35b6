/** Performs the session's effects on a platform: sockets, one timer, requests, storage. Decides nothing. */
import { dictionary, failure, type Effect, type Event } from "./core/effects.js";
import { Session, type Settings } from "./core/session.js";
import type { Platform, Socket } from "./platform.js";
import type { Failure, TokenContext } from "./types.js";

/** Sockets that were given up and may still open late; more would mean that the platform never says that one closed. */
const SOCKETS = 4;

export interface Surroundings {
  platform: Platform;
  url: string;
  httpUrl: string;
  storageKey: string | null;
  getToken: ((context: TokenContext) => string | Promise<string>) | null;
  /** Takes what is for the application: tell, over, settle, state, error. */
  told: (effect: Effect) => void;
}

export class Performer {
  readonly session: Session;
  private readonly _sockets = dictionary<Socket>();
  private readonly _queue: Event[] = [];
  private _busy = false;
  private _timer: unknown = null;
  private _stopListening: (() => void) | null = null;

  constructor(
    private readonly _around: Surroundings,
    settings: Settings,
  ) {
    this.session = new Session(settings);
  }

  start(): void {
    const { platform, storageKey } = this._around;
    const started = (stored: string | null) => this.happened({ kind: "start", stored });
    this._stopListening = platform.listen({
      show: () => this.happened({ kind: "show" }),
      hide: () => this.happened({ kind: "hide" }),
      nudge: () => this.happened({ kind: "nudge" }),
      network: (connected, type) => this.happened({ kind: "network", connected, type }),
    });
    if (platform.storage === null || storageKey === null) started(null);
    else platform.storage.get(storageKey, started);
  }

  /** Events that come while others are dealt with (a handler that subscribes) wait for their turn. */
  happened(event: Event): void {
    this._queue.push(event);
    if (this._busy) return;
    this._busy = true;
    const { platform } = this._around;
    let next: Event | undefined;
    while ((next = this._queue.shift()) !== undefined) {
      for (const effect of this.session.receive(next, platform.now())) this._perform(effect);
    }
    this._busy = false;
    this._setTimer();
  }

  private _setTimer(): void {
    const { platform } = this._around;
    if (this._timer !== null) platform.clearTimer(this._timer);
    this._timer = null;
    const at = this.session.next();
    if (at !== null) {
      const tick = () => {
        this._timer = null;
        this.happened({ kind: "tick" });
      };
      this._timer = platform.setTimer(tick, Math.max(0, at - platform.now()));
    }
    if (this.session.state === "closed" && this._stopListening !== null) {
      this._stopListening();
      this._stopListening = null;
    }
  }

  private _perform(effect: Effect): void {
    switch (effect.do) {
      case "open":
        this._open(effect.generation);
        break;
      case "send":
        this._guard(effect.generation, (socket) => socket.send(effect.text));
        break;
      case "close":
        this._guard(effect.generation, (socket) => socket.close());
        break;
      case "token":
        this._token(effect.number, effect.reason);
        break;
      case "request":
        this._request(effect);
        break;
      case "save":
        this._save(effect.text);
        break;
      default:
        this._around.told(effect);
    }
  }

  private _open(generation: number): void {
    const { platform, url } = this._around;
    const gone = (event: Event) => {
      delete this._sockets[generation];
      this.happened(event);
    };
    delete this._sockets[generation - SOCKETS];
    try {
      this._sockets[generation] = platform.connect(url, this.session.connectMs, {
        opened: () => this.happened({ kind: "opened", generation }),
        message: (text) => this.happened({ kind: "message", generation, text }),
        closed: () => gone({ kind: "closed", generation }),
        failed: (reason) => this.happened({ kind: "failed", generation, reason }),
        refused: (reason) => gone({ kind: "refused", generation, reason }),
      });
    } catch (error) {
      gone({ kind: "refused", generation, reason: "no_socket" });
    }
  }

  private _guard(generation: number, act: (socket: Socket) => void): void {
    const socket = this._sockets[generation];
    if (socket === undefined) return;
    try {
      act(socket);
    } catch (error) {
      this.happened({ kind: "failed", generation, reason: String(error) });
    }
  }

  private _token(number: number, reason: TokenContext["reason"]): void {
    const { getToken } = this._around;
    const answered = (token: string | null, because: Failure | null) =>
      this.happened({ kind: "token", number, token, failure: because });
    const refused = (error: unknown) => {
      const because = failure("getToken", "get_token", messageOf(error), true);
      because.cause = error;
      answered(null, because);
    };
    new Promise<string>((resolve) => resolve(getToken!({ reason }))).then((token) => {
      if (typeof token === "string" && token !== "") answered(token, null);
      else refused("getToken gave no text");
    }, refused);
  }

  private _request(effect: Effect & { do: "request" }): void {
    const { platform, httpUrl } = this._around;
    const { number, method, path, body, token } = effect;
    const headers: Record<string, string> = {};
    if (token !== null) headers.Authorization = "Bearer " + token;
    if (body !== null) headers["Content-Type"] = "application/json";
    const request = { method, url: httpUrl + path, path, headers, body, timeoutMs: this.session.requestMs };
    try {
      platform.request(request, (because, answer) =>
        this.happened({ kind: "answered", number, failure: because, answer }),
      );
    } catch (error) {
      this.happened({ kind: "answered", number, failure: messageOf(error), answer: null });
    }
  }

  private _save(text: string | null): void {
    const { platform, storageKey } = this._around;
    if (platform.storage === null || storageKey === null) return;
    try {
      if (text === null) platform.storage.remove(storageKey);
      else platform.storage.set(storageKey, text, (reason) => this._unsaved(reason));
    } catch (error) {
      this._unsaved(messageOf(error));
    }
  }

  private _unsaved(reason: string): void {
    this._around.told({ do: "error", failure: failure("storage", "storage", reason, true) });
  }
}

export function messageOf(error: unknown): string {
  const said = error as { errMsg?: unknown; message?: unknown } | null | undefined;
  return String((said && (said.errMsg || said.message)) || error);
}
