/** The client that an application has: subscriptions, cancels, history, listeners. */
import { failure, type Effect } from "./core/effects.js";
import { DEFAULT_TIMING } from "./core/timing.js";
import { makeBehavior } from "./behavior.js";
import { bindPage } from "./binding.js";
import { messageOf, Performer } from "./performer.js";
import type { Platform } from "./platform.js";
import type * as t from "./types.js";
import { Watcher, Watchers } from "./watchers.js";

export const VERSION = "0.1.0";
const TASK_ID = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/;
const LAST_STAGES = ["honoured", "refused", "too_late", "forced"];

type Listener<T> = (given: T) => void;
type Settle = { resolve: (value: any) => void; reject: (because: t.Failure) => void };

export class LedgerwireClient implements t.Client {
  private readonly _performer: Performer;
  private readonly _watchers = new Watchers();
  private readonly _settles: { [ref: number]: Settle } = {};
  private readonly _maxTasks: number;
  private readonly _random: () => number;
  private readonly _cancelMs: number;
  private _stateListeners: Listener<t.StateChange>[] = [];
  private _errorListeners: Listener<t.Failure>[] = [];
  private _ref = 0;
  private _closedBy: t.Failure | null = null;

  constructor(platform: Platform, options: t.ClientOptions) {
    const timing = Object.assign({}, DEFAULT_TIMING, options.timing);
    const url = options.url || "";
    this._maxTasks = options.maxTasks || 500;
    this._cancelMs = timing.cancelMs;
    this._random = () => platform.random();
    const around = {
      platform,
      url,
      httpUrl: (options.httpUrl || url.replace(/^ws/, "http").replace(/\/v1\/ws\/?$/, "")).replace(/\/$/, ""),
      storageKey: options.storageKey === false ? null : options.storageKey || "ledgerwire",
      getToken: options.getToken || null,
      told: (effect: Effect) => this._told(effect),
    };
    this._performer = new Performer(around, {
      tokens: !!options.getToken,
      unknownAnswers: options.unknownAnswers || 5,
      pollAfter: options.pollAfter === undefined ? 3 : options.pollAfter,
      client: options.client || "ledgerwire-js/" + VERSION,
      timing,
      random: this._random,
      connectsPerVisit: platform.connectsPerVisit,
    });
    this._performer.start();
  }

  get state(): t.State {
    return this._performer.session.state;
  }

  get degraded(): boolean {
    return this._performer.session.degraded;
  }

  subscribe(taskId: string, options: t.SubscribeOptions = {}): t.Subscription {
    if (!TASK_ID.test(taskId)) throw failure("subscribe", "bad_task_id", "this is not a task id", false, String(taskId));
    if (!this._watchers.has(taskId) && this._watchers.count >= this._maxTasks) {
      throw failure("subscribe", "too_many", "more than " + this._maxTasks + " tasks at once", true, taskId);
    }
    const watcher = new Watcher(taskId, options, (error, of) => this._thrown(error, of));
    const { mode = "all", after, waitMs = 0 } = options;
    if (this._closedBy !== null) {
      watcher.end(this._closedBy);
    } else {
      this._watchers.add(watcher);
      this._performer.happened({ kind: "subscribe", taskId, mode, after, waitMs });
      later(() => this._catchUp(watcher));
    }
    const client = this;
    return {
      taskId,
      get task() {
        return watcher.task;
      },
      get cursor() {
        return watcher.cursor;
      },
      done: () => watcher.done(),
      cancel: (given?: t.CancelOptions) => client.cancel(taskId, given),
      unsubscribe: () => {
        const last = watcher.over === undefined && this._watchers.remove(watcher);
        watcher.leave();
        if (last) this._performer.happened({ kind: "unsubscribe", taskId });
      },
    };
  }

  cancel(taskId: string, options: t.CancelOptions = {}): Promise<t.Receipt> {
    const { reason, timeoutMs = this._cancelMs, onStage } = options;
    if (!TASK_ID.test(taskId)) {
      return Promise.reject(failure("cancel", "bad_task_id", "this is not a task id", false, String(taskId)));
    }
    const stages = onStage ? this._followStages(taskId, onStage) : null;
    const key = this._random().toString(36).slice(2) + this._random().toString(36).slice(2);
    const asked = this._settled<t.Receipt>("cancel", (ref) =>
      this._performer.happened({ kind: "cancel", ref, taskId, reason, key, timeoutMs }),
    );
    if (stages === null) return asked;
    return asked.then(
      (receipt) => {
        stages.reached(receipt.cancel.stage);
        return receipt;
      },
      (because) => {
        stages.stop();
        throw because;
      },
    );
  }

  history(options?: t.HistoryOptions): Promise<t.HistoryPage>;
  history(options: t.HistoryOptions & t.Callbacks<t.HistoryPage>): void;
  history(options: t.HistoryOptions & t.Callbacks<t.HistoryPage> = {}): Promise<t.HistoryPage> | void {
    const query: string[] = [];
    for (const name of ["owner", "status", "kind", "cursor", "limit"] as const) {
      const value = options[name];
      if (value !== undefined) query.push(name + "=" + encodeURIComponent(String(value)));
    }
    const path = "/v1/tasks" + (query.length > 0 ? "?" + query.join("&") : "");
    const asked = this._settled<t.HistoryPage>("history", (ref) => this._performer.happened({ kind: "get", ref, path }));
    return asWx(asked, options);
  }

  connect(): Promise<void>;
  connect(callbacks: t.Callbacks<void>): void;
  connect(callbacks: t.Callbacks<void> = {}): Promise<void> | void {
    const online = new Promise<void>((resolve, reject) => {
      const listener = ({ state }: t.StateChange) => {
        if (state !== "online" && state !== "closed") return;
        this.offStateChange(listener);
        if (state === "online") resolve();
        else reject(this._closedBy || closed("connect"));
      };
      if (this._closedBy !== null) return reject(this._closedBy);
      if (this.state === "online") resolve();
      else this.onStateChange(listener);
    });
    this._performer.happened({ kind: "connect" });
    return asWx(online, callbacks);
  }

  onStateChange(listener: Listener<t.StateChange>): void {
    this._stateListeners = this._stateListeners.concat([listener]);
  }

  offStateChange(listener?: Listener<t.StateChange>): void {
    this._stateListeners = this._stateListeners.filter((one) => listener !== undefined && one !== listener);
  }

  onError(listener: Listener<t.Failure>): void {
    this._errorListeners = this._errorListeners.concat([listener]);
  }

  offError(listener?: Listener<t.Failure>): void {
    this._errorListeners = this._errorListeners.filter((one) => listener !== undefined && one !== listener);
  }

  bind(page: t.PageLike, taskId: string, property = "task", options: t.BindOptions = {}): t.Binding {
    return bindPage(this, page, taskId, property, options);
  }

  behavior(options: t.BehaviorOptions = {}): unknown {
    return makeBehavior(this, options);
  }

  show(): void {
    this._performer.happened({ kind: "show" });
  }

  hide(): void {
    this._performer.happened({ kind: "hide" });
  }

  forget(): void {
    this._performer.happened({ kind: "forget" });
  }

  close(): void {
    this._performer.happened({ kind: "close" });
  }

  private _told(effect: Effect): void {
    switch (effect.do) {
      case "tell":
        this._watchers.tell(effect.taskId, effect.task, effect.change, effect.cursor);
        break;
      case "over":
        this._watchers.end(effect.taskId, effect.failure);
        break;
      case "settle": {
        const settle = this._settles[effect.ref];
        delete this._settles[effect.ref];
        if (settle === undefined) break;
        if (effect.failure !== null) settle.reject(effect.failure);
        else settle.resolve(effect.value);
        break;
      }
      case "state": {
        const { state, degraded, failure: because } = effect;
        if (state === "closed") this._closedBy = because || closed("ledgerwire");
        for (const listener of this._stateListeners) this._call(listener, { state, degraded, error: because });
        break;
      }
      case "error":
        this._tellError(effect.failure);
        break;
    }
  }

  /** Tells a watcher what was known before it came. */
  private _catchUp(watcher: Watcher): void {
    if (watcher.over !== undefined || watcher.task !== null) return;
    const known = this._performer.session.streams.known(watcher.taskId);
    if (known === null) return;
    watcher.cursor = known.cursor;
    watcher.tell(known.task, { kind: "known", stored: known.stored });
  }

  /** Follows a cancel request through the task's own transitions. */
  private _followStages(taskId: string, onStage: NonNullable<t.CancelOptions["onStage"]>) {
    let last: t.CancelStage | null = null;
    const reached = (stage: t.CancelStage) => {
      if (stage === last || (stage === "recorded" && last !== null)) return;
      last = stage;
      this._call(() => onStage(stage, watching ? watching.task : null), null);
      if (LAST_STAGES.indexOf(stage) >= 0) stop();
    };
    let watching: t.Subscription | null = null;
    const stop = () => watching && watching.unsubscribe();
    watching = this.subscribe(taskId, {
      onState: (task, change) => {
        if (change.kind === "transition" && change.transition.cancel) reached(change.transition.cancel.stage);
        else if (change.kind === "jumped" && task.cancel) reached(task.cancel.stage);
      },
    });
    return { reached, stop };
  }

  private _settled<T>(api: string, ask: (ref: number) => void): Promise<T> {
    if (this._closedBy !== null) return Promise.reject(closed(api));
    return new Promise((resolve, reject) => {
      const ref = ++this._ref;
      this._settles[ref] = { resolve, reject };
      ask(ref);
    });
  }

  private _thrown(error: unknown, taskId?: string): void {
    const because = failure("handler", "handler", messageOf(error), false, taskId);
    because.cause = error;
    this._tellError(because);
  }

  private _tellError(because: t.Failure): void {
    for (const listener of this._errorListeners) {
      try {
        listener(because);
      } catch (error) {
        // Whoever listens for errors and throws has nobody to be told.
      }
    }
  }

  private _call<T>(listener: Listener<T>, given: T): void {
    try {
      listener(given);
    } catch (error) {
      this._thrown(error);
    }
  }
}

function closed(api: string): t.Failure {
  return failure(api, "closed", "the client was closed", false);
}

function later(call: () => void): void {
  Promise.resolve().then(call);
}

/** wx style: with a callback nothing is returned. */
function asWx<T>(asked: Promise<T>, callbacks: t.Callbacks<T>): Promise<T> | void {
  const { success, fail, complete } = callbacks;
  if (!success && !fail && !complete) return asked;
  asked.then(
    (result) => {
      if (success) success(result);
      if (complete) complete(result);
    },
    (because) => {
      if (fail) fail(because);
      if (complete) complete(because);
    },
  );
}
