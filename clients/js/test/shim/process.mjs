// One run of a mini-program: a bare realm, its timers, and whether its JavaScript runs, is suspended, or is gone.

import vm from "node:vm";

/** @typedef {'shown' | 'hidden' | 'suspended' | 'gone'} State */

// iOS before 16 has promises made of timers, so that no order of microtasks can be relied on.
const SLOW_PROMISES = `(function (setTimeout) {
  var then = Promise.prototype.then
  function later(callback) {
    return typeof callback !== 'function' ? callback : function (value) {
      return new Promise(function (resolve, reject) {
        setTimeout(function () { try { resolve(callback(value)) } catch (error) { reject(error) } }, 0)
      })
    }
  }
  Promise.prototype.then = function (done, failed) { return then.call(this, later(done), later(failed)) }
})`;

export class Process {
  /** @param {import('./device.mjs').Device} device */
  constructor(device) {
    this.device = device;
    /** @type {State} */
    this.state = "hidden";
    /** When it was shown last, as `performance.now()`. */
    this.shownAt = -Infinity;
    /** What its code has thrown into nobody's hands. @type {unknown[]} */
    this.errors = [];
    /** What it has logged. @type {string[]} */
    this.log = [];
    /** What waits for it to run again. @type {(() => void)[]} */
    this._waiting = [];
    /** @type {Map<number, NodeJS.Timeout>} */
    this._timers = new Map();
    this._timerId = 0;
    /** @type {NodeJS.Timeout | undefined} */
    this._suspending = undefined;
    /** @type {Map<string, Set<(value: any) => void>>} */
    this._listeners = new Map();
    this.context = vm.createContext(this._globals(), { codeGeneration: { strings: false, wasm: false } });
    this._parse = vm.runInContext("JSON.parse", this.context);
    this._Error = vm.runInContext("Error", this.context);
    this._ArrayBuffer = vm.runInContext("ArrayBuffer", this.context);
    if (device.faults.slowPromises) {
      vm.runInContext(SLOW_PROMISES, this.context)(this._globals().setTimeout);
    }
  }

  get running() {
    return this.state === "shown" || this.state === "hidden";
  }

  /** Run a callback of the realm: now, or as soon as the process runs again; never if it is gone.
   * @param {() => void} callback */
  enter(callback) {
    if (this.state === "suspended") this._waiting.push(callback);
    if (!this.running) return;
    try {
      callback();
    } catch (error) {
      this.errors.push(error);
    }
  }

  /** Call a callback that may be missing with a value of the realm's own. Never from inside the caller's own turn.
   * @param {((value: any) => void) | undefined} callback @param {unknown} value */
  answer(callback, value) {
    if (callback) setImmediate(() => this.enter(() => callback(this.copy(value))));
  }

  /** The same value, made of the realm's own objects. @param {unknown} value @returns {any} */
  copy(value) {
    if (value === undefined) return undefined;
    return this._parse(JSON.stringify(value));
  }

  /** @param {Uint8Array} bytes @returns {ArrayBuffer} of the realm */
  buffer(bytes) {
    const copy = new this._ArrayBuffer(bytes.length);
    new Uint8Array(copy).set(bytes);
    return copy;
  }

  /** @param {string} message @returns {Error} of the realm */
  error(message) {
    return new this._Error(message);
  }

  // ── events of the app ─────────────────────────────────────────────────────────────────────────────────────────

  /** @param {string} event @param {(value: any) => void} listener */
  on(event, listener) {
    const listeners = this._listeners.get(event) ?? new Set();
    this._listeners.set(event, listeners.add(listener));
  }

  /** @param {string} event @param {((value: any) => void) | undefined} listener undefined: all */
  off(event, listener) {
    if (listener) this._listeners.get(event)?.delete(listener);
    else this._listeners.delete(event);
  }

  /** @param {string} event @param {unknown} value */
  tell(event, value) {
    for (const listener of [...(this._listeners.get(event) ?? [])]) this.enter(() => listener(this.copy(value)));
  }

  // ── states ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The user comes to it. What has gathered while it was suspended is delivered first. */
  show() {
    if (this.state === "gone" || this.state === "shown") return;
    clearTimeout(this._suspending);
    const wasSuspended = this.state === "suspended";
    this.state = "shown";
    this.shownAt = wasSuspended ? performance.now() : -Infinity;
    const waiting = this._waiting;
    this._waiting = [];
    this.tell("appShow", { scene: 1001, path: "", query: {} });
    for (const callback of waiting) this.enter(callback);
  }

  /** The user leaves it; some time later it is suspended. */
  hide() {
    if (this.state !== "shown") return;
    this.state = "hidden";
    this.tell("appHide", {});
    this._suspending = setTimeout(() => this._suspend(), this.device.faults.suspendAfterMs);
  }

  /** The system takes its memory; there is no callback for that. */
  kill() {
    this.state = "gone";
    clearTimeout(this._suspending);
    for (const timer of this._timers.values()) clearTimeout(timer);
    this._waiting = [];
    for (const socket of [...this.device.sockets]) socket.vanish();
    for (const request of [...this.device.requests]) request.interrupt("killed");
    if (this.device.process === this) this.device.process = null;
  }

  /** Whether the system refuses its network calls just now. */
  get refusesNetwork() {
    if (this.state === "suspended") return true;
    return performance.now() - this.shownAt < this.device.faults.refuseAfterShowMs;
  }

  /** Note what is sent while nobody looks. @param {string} what */
  note(what) {
    if (this.state !== "shown") this.device.counts.inBackground.push(what);
  }

  _suspend() {
    this.state = "suspended";
    for (const request of [...this.device.requests]) request.interrupt("interrupted");
    if (this.device.faults.onSuspend === "keep") return;
    for (const socket of [...this.device.sockets]) {
      if (this.device.faults.onSuspend === "close") socket.fail("interrupted");
      else socket.vanish();
    }
  }

  _globals() {
    const timers = this._timers;
    /** @param {boolean} again */
    const timer =
      (again) =>
      (/** @type {(...args: any[]) => any} */ callback, delay = 0, /** @type {any[]} */ ...rest) => {
        const id = ++this._timerId;
        let due = false;
        const fire = () => {
          if (due) return; // it waits for the process already
          due = true;
          this.enter(() => {
            due = false;
            if (!timers.has(id)) return;
            if (!again) timers.delete(id);
            callback(...rest);
          });
        };
        timers.set(id, again ? setInterval(fire, delay) : setTimeout(fire, delay));
        return id;
      };
    const clear = (/** @type {number} */ id) => {
      clearTimeout(timers.get(id));
      timers.delete(id);
    };
    const say = (/** @type {unknown[]} */ ...words) => void this.log.push(words.map(String).join(" "));
    return {
      setTimeout: timer(false),
      setInterval: timer(true),
      clearTimeout: clear,
      clearInterval: clear,
      console: { log: say, info: say, warn: say, error: say, debug: say },
    };
  }
}
