/**
 * What an application sees: tasks, changes, errors, and the client's methods. Types only.
 *
 * Members of tasks, transitions and receipts have the names of the wire (docs/protocol.md); what only this package
 * knows (options, handlers) is in camel case. Times in options are milliseconds.
 */

import type { Platform } from "./platform.js";

export type Status = "pending" | "running" | "cancelling" | "completed" | "failed" | "cancelled" | "lost";

/** How far a cancel request has come. `refused` means that the task goes on. */
export type CancelStage = "recorded" | "delivered" | "honoured" | "refused" | "too_late" | "forced";

export type Liveness = "live" | "late" | "lost";

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** All up to here has been seen. */
export interface Cursor {
  epoch: string;
  seq: number;
}

/** A task as of `seq`. */
export interface Task {
  task_id: string;
  status: Status;
  seq: number;
  attempt: number;
  /** 0 to 100. */
  progress: number | null;
  stage: string | null;
  message: string | null;
  data: Json;
  result: Json;
  error: Json;
  cancel: { stage: CancelStage; seq?: number; reason?: string | null } | null;
  /** Whether the worker was heard of in time; null when nobody is at work. */
  liveness: Liveness | null;
  kind?: string | null;
  owner?: string | null;
  created_at?: string;
  updated_at?: string;
  deadline_at?: string | null;
  beat_at?: string | null;
  beat_age_ms?: number | null;
  /** The task was ended because nobody answered the cancel request. */
  forced?: boolean;
}

/** One committed change, as the server sent it. */
export interface Transition {
  task_id: string;
  seq: number;
  status: Status;
  progress: number | null;
  stage: string | null;
  message: string | null;
  attempt: number;
  at: string;
  data?: Json;
  result?: Json;
  error?: Json;
  cancel?: { stage: CancelStage; reason: string | null };
  forced?: boolean;
}

/** Why a handler is called. */
export type Change =
  /** One step further: `transition.seq` is one more than before. */
  | { kind: "transition"; transition: Transition }
  /** A whole state: the first that is known here, or the one that follows. */
  | { kind: "snapshot" }
  /** The state does not follow the one before: what lies between was not seen. `from` is null when nothing was kept. */
  | { kind: "jumped"; from: Cursor | null; to: Cursor; reason: JumpReason }
  /** Only `liveness` is another. */
  | { kind: "liveness" }
  /** What was known already, told to a handler that came later. `stored`: from before this program was started. */
  | { kind: "known"; stored: boolean };

/**
 * `other_epoch`, `beyond_head`, `not_in_ledger`: as the server says. `polled`: states in between were not asked for.
 * `not_kept`: the state before was too large to store. `latest`: skipped as asked for by `mode: "latest"`. `unannounced`: the server sent a state that does not follow.
 */
export type JumpReason = "other_epoch" | "beyond_head" | "not_in_ledger" | "polled" | "not_kept" | "latest" | "unannounced";

/**
 * What failed. `errMsg` is "<api>:fail <reason>", as in `wx`; `errCode` is a code of docs/protocol.md, or one of
 * `gone`, `timeout`, `closed`, `network`, `get_token`, `handler`, `storage`, `bad_answer`, `too_many`, `no_socket`.
 */
export interface Failure {
  errMsg: string;
  errCode: string;
  /** Whether the same may succeed later. */
  retryable: boolean;
  task_id?: string;
  /** With `done()`: the state in which the task ended. */
  task?: Task;
  /** What was thrown, where something was. */
  cause?: unknown;
}

/**
 * idle: nothing to watch, no socket · connecting · online · polling: no socket, states are asked for over HTTP ·
 * offline: waiting for the network, the next attempt or the foreground · closed: for good, by `close()` or `error`.
 */
export type State = "idle" | "connecting" | "online" | "polling" | "offline" | "closed";

export interface StateChange {
  state: State;
  /** The server cannot reach its ledger just now: what is shown may be old. */
  degraded: boolean;
  /** Why it is `closed`, when not by `close()`. */
  error: Failure | null;
}

/** Called with the task and why. One that throws is reported to `onError` of the client and harms nobody else. */
export type TaskHandler = (task: Task, change: Change) => void;

export interface Handlers {
  /** Every change, also of `liveness`. */
  onState?: TaskHandler;
  /** pending, running, cancelling. */
  onProgress?: TaskHandler;
  /** completed. */
  onDone?: TaskHandler;
  onFail?: TaskHandler;
  onCancelled?: TaskHandler;
  /** The worker was silent for too long. */
  onLost?: TaskHandler;
  /** Nobody knows this id, asked several times: tell the user, go to the history. Nothing else will come. */
  onGone?: (failure: Failure) => void;
  /** The server refuses this subscription. Nothing else will come. */
  onError?: (failure: Failure) => void;
}

export interface SubscribeOptions extends Handlers {
  /** "all": every transition, in order (default). "latest": only the newest state, for a slow reader. */
  mode?: "all" | "latest";
  /** Go on after this cursor instead of the one that is kept here. `null`: begin with the state as it is. */
  after?: Cursor | null;
  /** How long the server waits for a task that does not exist yet (default 0, at most 600000). */
  waitMs?: number;
}

/** One watcher of one task. Several of one id share what is sent over the wire. */
export interface Subscription {
  readonly taskId: string;
  /** The state as last told; null before. */
  readonly task: Task | null;
  readonly cursor: Cursor | null;
  /** Resolves when the task is completed; rejects with a Failure when it ended otherwise, is gone or was refused. */
  done(): Promise<Task>;
  cancel(options?: CancelOptions): Promise<Receipt>;
  /** Nothing is called after it. May be called again. */
  unsubscribe(): void;
}

export interface CancelOptions {
  reason?: string;
  /** How long to try (default 30000). */
  timeoutMs?: number;
  /** Called for each stage that is reached, to the last one. */
  onStage?: (stage: CancelStage, task: Task | null) => void;
}

/** The server's answer to a cancel request: the first stage it has reached. */
export interface Receipt {
  task_id: string;
  seq: number;
  status: Status;
  attempt: number;
  repeat: boolean;
  cancel: { stage: CancelStage; seq?: number; reason?: string | null };
}

export interface HistoryOptions {
  owner?: string;
  /** One status, or several. */
  status?: Status | Status[];
  kind?: string;
  /** `next` of the page before. */
  cursor?: string;
  /** 1 to 200 (default 50). */
  limit?: number;
}

export interface HistoryPage {
  /** Newest first. */
  tasks: Task[];
  /** The cursor of the next page, or null. */
  next: string | null;
}

/** wx style: when one of these is given, nothing is returned. */
export interface Callbacks<T> {
  success?: (result: T) => void;
  fail?: (failure: Failure) => void;
  complete?: (result: T | Failure) => void;
}

/** With at least one of them. */
export type SomeCallback<T> = Callbacks<T> &
  (Required<Pick<Callbacks<T>, "success">> | Required<Pick<Callbacks<T>, "fail">> | Required<Pick<Callbacks<T>, "complete">>);

/** Why a token is asked for. */
export interface TokenContext {
  reason: "start" | "expiring" | "refused";
}

/** All in milliseconds unless said otherwise; what is left out is as in `DEFAULT_TIMING`. */
export interface Timing {
  connectMs: number;
  tokenMs: number;
  requestMs: number;
  cancelMs: number;
  /** A socket that was closed is waited for so long before the next is opened. */
  dyingMs: number;
  probeMs: number;
  /** Silence beyond the server's ping interval after which a socket is dead. */
  silenceMs: number;
  /** A short absence: the socket is probed and not given up. */
  absenceMs: number;
  suspendedRetryMs: number;
  backoffFirstMs: number;
  backoffMostMs: number;
  socketLimitMs: number;
  /** The back-off begins anew when a connection has held so long. */
  stableMs: number;
  pollMs: number;
  pollMostMs: number;
  /** Between two questions about an id that nobody knows. */
  unknownMs: number;
  /** A socket without a subscription is closed after so long. */
  idleMs: number;
  saveMs: number;
}

export interface ClientOptions {
  /** The WebSocket: "wss://host/v1/ws". Not used by `containerPlatform`. */
  url?: string;
  /** "https://host", where /v1/poll and /v1/tasks are. Left out: made from `url`. */
  httpUrl?: string;
  /** Asked at the start, when the server says that the token expires, and once when it was refused. One call at a time. */
  getToken?: (context: TokenContext) => string | Promise<string>;
  /** Where it runs. Left out: `wx`, else the browser or Node, looked for when `createClient` is called. */
  platform?: Platform;
  /** Under which name cursors are stored (default "ledgerwire"). Give each user another. `false`: keep none. */
  storageKey?: string | false;
  /** After so many answers in a row that nobody knows the id, it is gone (default 5). */
  unknownAnswers?: number;
  /** After so many connections in a row that failed, states are polled (default 3). 0: never. */
  pollAfter?: number;
  /** At most so many tasks at once (default 500). */
  maxTasks?: number;
  /** What this application is called in the server's logs. */
  client?: string;
  timing?: Partial<Timing>;
}

export interface PageLike {
  setData(data: Record<string, unknown>, callback?: () => void): void;
}

export interface BindOptions extends SubscribeOptions {
  /** Least time between two `setData` (default 200). The last state is always shown. */
  throttleMs?: number;
}

export interface Binding {
  readonly subscription: Subscription;
  /** No `setData` after it. May be called again. */
  stop(): void;
}

export interface BehaviorOptions {
  /** Name in `data` (default "task"). */
  property?: string;
  throttleMs?: number;
  /** Its `onGone` and others are called with the page or component as `this`. */
  handlers?: Handlers;
  /** The constructor of the mini-program; left out, the global one. */
  Behavior?: (options: Record<string, unknown>) => unknown;
}

export interface Client {
  readonly state: State;
  readonly degraded: boolean;
  /** Throws a Failure when `taskId` is not one, or there are too many. */
  subscribe(taskId: string, options?: SubscribeOptions): Subscription;
  cancel(taskId: string, options?: CancelOptions): Promise<Receipt>;
  history(options: HistoryOptions & SomeCallback<HistoryPage>): void;
  history(options?: HistoryOptions): Promise<HistoryPage>;
  /** Connect now and stay connected, also with nothing to watch. */
  connect(callbacks: SomeCallback<void>): void;
  connect(): Promise<void>;
  onStateChange(listener: (change: StateChange) => void): void;
  /** Without a listener: all of them. */
  offStateChange(listener?: (change: StateChange) => void): void;
  onError(listener: (failure: Failure) => void): void;
  offError(listener?: (failure: Failure) => void): void;
  /** Shows a task in `data[property]` of a page or component until it is unloaded. */
  bind(page: PageLike, taskId: string, property?: string, options?: BindOptions): Binding;
  /** For `behaviors: [client.behavior()]`: adds `watchTask(id)`, `cancelTask()`, and ends with the page. */
  behavior(options?: BehaviorOptions): unknown;
  /** Call from `App.onShow` / `App.onHide` where the platform has no `onAppShow`. */
  show(): void;
  hide(): void;
  /** Forget what is stored, as when the user logs out. */
  forget(): void;
  /** For good. Open `done()` and `cancel()` reject. */
  close(): void;
}
