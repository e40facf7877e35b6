/**
 * Mini-programs: `wx`, and objects like it (`uni`, `Taro`, `qq`, `tt`). Knows their habits and decides nothing:
 * `success` of connectSocket says only that a task was made; a failure may come as onError, as onClose, as both; close
 * before open has no effect; `request` succeeds with any status; nothing says reliably why a socket closed.
 */
import { messageOf } from "../core/effects.js";
import type { HttpAnswer, Platform, PlatformEvents, Socket, SocketEvents, Storage } from "../platform.js";

export interface SocketTaskLike {
  send(options: { data: string; success?: () => void; fail?: (error: any) => void; complete?: () => void }): void;
  close(options: { code?: number; reason?: string; success?: () => void; fail?: () => void; complete?: () => void }): void;
  onOpen(call: (event: any) => void): void;
  onMessage(call: (event: { data: string | ArrayBuffer }) => void): void;
  onClose(call: (event: any) => void): void;
  onError(call: (event: any) => void): void;
}

/** The methods of `wx` that are used besides onAppShow, onAppHide and onNetworkStatusChange; no typings of a platform are needed. */
export interface WxLike {
  connectSocket(options: any): any;
  request(options: any): any;
  getStorage?(options: any): any;
  setStorage?(options: any): any;
  removeStorage?(options: any): any;
}

const CONNECTS_PER_VISIT = 100;

/** A socket whose task may come later, or never. */
export function socketOf(made: SocketTaskLike | Promise<SocketTaskLike>, events: SocketEvents): Socket {
  let task: SocketTaskLike | null = null;
  let left = false;
  const close = () => task!.close({ code: 1000, fail: nothing });
  const use = (given: SocketTaskLike | undefined) => {
    if (!given || typeof given.onOpen !== "function") return events.refused("no SocketTask");
    task = given;
    task.onOpen(() => events.opened());
    task.onMessage(({ data }) => typeof data === "string" && events.message(data));
    task.onError((error) => events.failed(messageOf(error)));
    task.onClose(() => events.closed());
    if (left) close();
  };
  if (made && typeof (made as Promise<SocketTaskLike>).then === "function") {
    (made as Promise<SocketTaskLike>).then(use, (error) => events.refused(messageOf(error)));
  } else use(made as SocketTaskLike);
  return {
    send(text) {
      if (task === null) return events.failed("no SocketTask");
      task.send({ data: text, fail: (error) => events.failed(messageOf(error)) });
    },
    close() {
      left = true;
      if (task !== null) close();
    },
  };
}

export function wxPlatform(wx: object): Platform {
  const api = wx as WxLike;
  return {
    now: () => Date.now(),
    random: () => Math.random(),
    setTimer: (call, ms) => setTimeout(call, ms),
    clearTimer: (timer) => clearTimeout(timer as number),
    connectsPerVisit: CONNECTS_PER_VISIT,
    storage: typeof api.setStorage === "function" ? storageOf(api) : null,
    connect(url, timeoutMs, events) {
      let refused = false;
      const made = api.connectSocket({
        url,
        timeout: timeoutMs,
        fail(error: any) {
          refused = true;
          events.refused(messageOf(error));
        },
        complete: nothing, // without a callback uni-app gives a promise of something else
      });
      return refused ? { send: nothing, close: nothing } : socketOf(made, events);
    },
    request({ method, url, headers, body, timeoutMs }, done) {
      const made = api.request({
        method,
        url,
        header: headers,
        timeout: timeoutMs,
        data: body === null ? undefined : body,
        success: (answer: any) => done(null, answerOf(answer)),
        fail: (error: any) => done(messageOf(error), null),
      });
      quiet(made);
    },
    listen: (events) => listen(api, events),
  };
}

export function answerOf(answer: { statusCode: number; data: unknown }): HttpAnswer {
  let body = answer.data;
  if (typeof body === "string") {
    try {
      body = JSON.parse(body);
    } catch (error) {
      body = null;
    }
  }
  return { status: answer.statusCode, body };
}

export function listen(api: WxLike, events: PlatformEvents): () => void {
  const show = () => events.show();
  const hide = () => events.hide();
  const network = (status: { isConnected: boolean; networkType: string }) =>
    events.network(status.isConnected, status.networkType);
  const all = (verb: "on" | "off") => {
    const call = (name: string, listener: unknown) => {
      const method = (api as any)[verb + name];
      if (method) method.call(api, listener);
    };
    call("AppShow", show);
    call("AppHide", hide);
    call("NetworkStatusChange", network);
  };
  all("on");
  return () => all("off");
}

function storageOf(api: WxLike): Storage {
  return {
    get(key, done) {
      quiet(api.getStorage!({
        key,
        success: ({ data }: { data: unknown }) => done(typeof data === "string" ? data : null),
        fail: () => done(null),
      })); // prettier-ignore
    },
    set(key, value, failed) {
      quiet(api.setStorage!({ key, data: value, fail: (error: any) => failed(messageOf(error)) }));
    },
    remove(key) {
      quiet(api.removeStorage!({ key, fail: nothing }));
    },
  };
}

/** Some give a promise besides; what it says was told to the callbacks. */
function quiet(made: any): void {
  if (made && typeof made.catch === "function") made.catch(nothing);
}

function nothing(): void {
  // asked for by some platforms, and of no use
}
