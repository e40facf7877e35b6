/** What a platform offers to the client: one place to run in. Types only. */

/** Callbacks of one socket. Any may come late, twice or never; the client takes that. */
export interface SocketEvents {
  opened(): void;
  /** A text frame. */
  message(text: string): void;
  closed(): void;
  /** It is of no use any more; `closed` may follow. */
  failed(reason: string): void;
  /** No socket was made. */
  refused(reason: string): void;
}

export interface Socket {
  send(text: string): void;
  close(): void;
}

export interface HttpRequest {
  method: "GET" | "POST";
  url: string;
  /** With the path and query only, for platforms that have no host. */
  path: string;
  headers: Record<string, string>;
  body: string | null;
  timeoutMs: number;
}

export interface HttpAnswer {
  status: number;
  /** Parsed JSON, or null when it was none. */
  body: unknown;
}

export interface PlatformEvents {
  /** In the foreground again after `hide`. */
  show(): void;
  hide(): void;
  /** Something suggests to look at the connection, as when a tab is looked at again. */
  nudge(): void;
  network(connected: boolean, type: string): void;
}

/** One place to run in. Touches no global before a method is called. */
export interface Platform {
  now(): number;
  random(): number;
  setTimer(call: () => void, ms: number): unknown;
  clearTimer(timer: unknown): void;
  /** May throw: then there is no socket to be had here just now. */
  connect(url: string, timeoutMs: number, events: SocketEvents): Socket;
  request(request: HttpRequest, done: (failure: string | null, answer: HttpAnswer | null) => void): void;
  storage: Storage | null;
  /** Begins to listen; returns what ends it. */
  listen(events: PlatformEvents): () => void;
  /** How many failed connections are allowed until the user comes back (Infinity: no limit). */
  readonly connectsPerVisit: number;
}

export interface Storage {
  get(key: string, done: (value: string | null) => void): void;
  /** `failed` is told of a full or missing storage. */
  set(key: string, value: string, failed: (reason: string) => void): void;
  remove(key: string): void;
}
