/** The client that an application has: subscriptions, cancels, history, listeners. */
import { makeBehavior } from "./behavior.js";
import { bindPage } from "./binding.js";
import { dictionary, failure, messageOf, type Effect, type Settle } from "./core/effects.js";
import { DEFAULT_TIMING } from "./core/timing.js";
import { perform } from "./performer.js";
import type { Platform } from "./platform.js";
import type * as t from "./types.js";
import { done, end, tell, type Call, type Watcher } from "./watcher.js";

export const VERSION = "0.1.0";
const TASK_ID = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/;
const LAST_STAGE = /honoured|refused|too_late|forced/;

type Listener<T> = (given: T) => void;

export function makeClient(platform: Platform, options: t.ClientOptions): t.Client {
  const { url = "", httpUrl, storageKey = "ledgerwire", getToken, pollAfter = 3, maxTasks = 500 } = options;
  const timing: t.Timing = Object.assign({}, DEFAULT_TIMING, options.timing);
  const watchers = dictionary<Watcher[]>();
  const stateListeners = listeners<t.StateChange>();
  const errorListeners = listeners<t.Failure>();
  const connecting = listeners<t.StateChange>();
  let closedBy: t.Failure | null = null;

  const tellError = (because: t.Failure) => {
    for (const listener of errorListeners.all()) {
      try {
        listener(because);
      } catch (error) {
        // Whoever listens for errors and throws has nobody to be told.
      }
    }
  };
  const call: Call = (handler, one, other) => {
    try {
      if (handler) handler(one, other);
    } catch (error) {
      const because = failure("handler", "handler", messageOf(error), false, one && one.task_id);
      because.cause = error;
      tellError(because);
    }
  };
  const told = (effect: Effect) => {
    if (effect.do === "tell") {
      for (const watcher of watchers[effect.taskId] || []) tell(watcher, effect.task, effect.change, effect.cursor, call);
    } else if (effect.do === "over") {
      const { taskId, failure: because } = effect;
      const all = watchers[taskId] || [];
      // Who subscribed in the handler of the end has been told of nothing yet; its turn comes.
      const later = all.filter((watcher) => !because && !watcher.task);
      if (later.length > 0) watchers[taskId] = later;
      else delete watchers[taskId];
      for (const watcher of all) if (later.indexOf(watcher) < 0) end(watcher, because, call);
    } else if (effect.do === "settle") {
      effect.settle(effect.failure, effect.value);
    } else if (effect.do === "state") {
      const { state, degraded, failure: error } = effect;
      if (state === "closed") closedBy = error || closed("ledgerwire");
      for (const listener of connecting.all().concat(stateListeners.all())) call(listener, { state, degraded, error });
    } else if (effect.do === "error") tellError(effect.failure);
  };
  const { session, happened, ready } = perform(
    {
      platform,
      url,
      httpUrl: (httpUrl || url.replace(/^ws/, "http").replace(/\/v1\/ws\/?$/, "")).replace(/\/$/, ""),
      storageKey: storageKey || null,
      getToken,
      told,
    },
    {
      tokens: !!getToken,
      unknownAnswers: options.unknownAnswers || 5,
      pollAfter,
      client: options.client || "ledgerwire-js/" + VERSION,
      timing,
      random: platform.random,
      connectsPerVisit: platform.connectsPerVisit,
    },
  );

  /** wx style: with a callback nothing is returned. */
  const asWx = <T>(asked: Promise<T>, { success, fail, complete }: t.Callbacks<T>): any => {
    if (!success && !fail && !complete) return asked;
    const then = (callback?: (given: any) => void) => (given: any) => {
      call(callback, given);
      call(complete, given);
    };
    asked.then(then(success), then(fail));
  };

  /** Why this id cannot be asked for; null: it can. */
  const wrong = (api: string, taskId: string) =>
    TASK_ID.test(taskId) ? null : failure(api, "bad_task_id", "bad task id: " + taskId);

  const settled = <T>(api: string, ask: (settle: Settle) => void): Promise<T> =>
    new Promise((resolve, reject) => {
      if (closedBy) reject(closed(api));
      else ask((because, value) => (because ? reject(because) : resolve(value)));
    });

  const subscribe = (taskId: string, given: t.SubscribeOptions = {}): t.Subscription => {
    const { mode = "all", after, waitMs = 0 } = given;
    const because = wrong("subscribe", taskId);
    if (because) throw because;
    if (!watchers[taskId] && Object.keys(watchers).length >= maxTasks) {
      throw failure("subscribe", "too_many", "more than " + maxTasks + " tasks", true, taskId);
    }
    const watcher: Watcher = { taskId, handlers: given, task: null, cursor: null, over: undefined, waiting: [] };
    /** What was known before it came. */
    const catchUp = () => {
      const known = session.known(taskId);
      if (!known || !known.task || watcher.task || watcher.over !== undefined) return;
      tell(watcher, known.task, { kind: "known", stored: known.stored }, known.cursor, call);
    };
    if (closedBy) end(watcher, closedBy, call);
    else {
      watchers[taskId] = (watchers[taskId] || []).concat([watcher]);
      happened({ kind: "subscribe", taskId, mode, after, waitMs });
      ready.then(catchUp);
    }
    return {
      taskId,
      get task() {
        return watcher.task;
      },
      get cursor() {
        return watcher.cursor;
      },
      done: () => done(watcher),
      cancel: (how) => cancel(taskId, how),
      unsubscribe() {
        const left = (watchers[taskId] || []).filter((one) => one !== watcher);
        watcher.handlers = {};
        if (watcher.over !== undefined) return;
        end(watcher, failure("subscribe", "closed", "unsubscribed", false, taskId), call);
        if (left.length > 0) watchers[taskId] = left;
        else {
          delete watchers[taskId];
          happened({ kind: "unsubscribe", taskId });
        }
      },
    };
  };

  const cancel = (taskId: string, how: t.CancelOptions = {}): Promise<t.Receipt> => {
    const { reason, timeoutMs = timing.cancelMs, onStage } = how;
    const because = wrong("cancel", taskId);
    if (because) return Promise.reject(because);
    // The same in every repeat, so that one is known as such even after the worker has refused.
    const key = platform.random().toString(36).slice(2) + platform.random().toString(36).slice(2);
    return settled<t.Receipt>("cancel", (settle) => {
      const reached = onStage ? followStages(taskId, onStage) : null;
      const answered: Settle = (refused, body) => {
        if (reached) reached(refused ? "refused" : body.cancel.stage, !refused);
        if (refused) return settle(refused, null);
        const { task_id, seq, status, attempt, repeat, cancel: stage } = body;
        settle(null, { task_id, seq, status, attempt, repeat, cancel: stage });
      };
      happened({ kind: "cancel", taskId, reason, key, timeoutMs, settle: answered });
    });
  };

  /** Follows a cancel request through the task's own transitions. */
  const followStages = (taskId: string, onStage: NonNullable<t.CancelOptions["onStage"]>) => {
    let last = "";
    const reached = (stage: t.CancelStage, isTold: boolean) => {
      if (isTold && stage !== last && !(stage === "recorded" && last)) {
        last = stage;
        call(onStage as Listener<any>, stage, watching.task);
      }
      if (LAST_STAGE.test(stage)) watching.unsubscribe();
    };
    const watching = subscribe(taskId, {
      onState(task, change) {
        const stage = change.kind === "transition" ? change.transition.cancel : last && task.cancel;
        if (stage) reached(stage.stage, true);
      },
    });
    return reached;
  };

  const history = (given: t.HistoryOptions & t.Callbacks<t.HistoryPage> = {}): any => {
    const query = (["owner", "status", "kind", "cursor", "limit"] as const)
      .filter((name) => given[name] !== undefined)
      .map((name) => name + "=" + encodeURIComponent(String(given[name])));
    const path = "/v1/tasks?" + query.join("&");
    return asWx(settled<t.HistoryPage>("history", (settle) => happened({ kind: "get", path, settle })), given);
  };

  const connect = (callbacks: t.Callbacks<void> = {}): any => {
    const online = settled<void>("connect", (settle) => {
      const look = () => {
        const state = session.state();
        if (state !== "online" && state !== "closed") return;
        connecting.off(look);
        settle(state === "online" ? null : closedBy, undefined);
      };
      connecting.on(look);
      happened({ kind: "connect" });
      look();
    });
    return asWx(online, callbacks);
  };

  const client: t.Client = {
    get state() {
      return session.state();
    },
    get degraded() {
      return session.degraded();
    },
    subscribe,
    cancel,
    history,
    connect,
    onStateChange: stateListeners.on,
    offStateChange: stateListeners.off,
    onError: errorListeners.on,
    offError: errorListeners.off,
    bind: (page, taskId, property = "task", given = {}) => bindPage(client, page, taskId, property, given),
    behavior: (given = {}) => makeBehavior(client, given),
    show: () => happened({ kind: "show" }),
    hide: () => happened({ kind: "hide" }),
    forget: () => happened({ kind: "forget" }),
    close: () => happened({ kind: "close" }),
  };
  return client;
}

function closed(api: string): t.Failure {
  return failure(api, "closed", "closed");
}

/** An onX/offX pair, as in `wx`: off without a listener removes all. */
function listeners<T>() {
  let all: Listener<T>[] = [];
  return {
    all: () => all,
    on(listener: Listener<T>) {
      all = all.concat([listener]);
    },
    off(listener?: Listener<T>) {
      all = all.filter((one) => listener && one !== listener);
    },
  };
}
