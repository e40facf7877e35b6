// wx.connectSocket on a real WebSocket, with what devices do to it.

import WebSocket from "ws";

import { fail, succeed } from "./answers.mjs";

const SUSPENDED =
  "connectSocket:fail jsapi has no permission,event=createSocketTask,runningState=suspend," +
  "permissionState=4,detail=network api interrupted in suspend state";
const NO_TASK = "wcwss taskID not exist";

/** @typedef {'opening' | 'open' | 'ended'} State */

/** One SocketTask, and what is behind it. */
export class Socket {
  /** @param {import('./process.mjs').Process} process @param {WechatMiniprogram.ConnectSocketOption} option */
  constructor(process, option) {
    this.process = process;
    this.device = process.device;
    /** @type {State} */
    this.state = "opening";
    /** The mini-program has told it to close. */
    this.dismissed = false;
    /** Nothing passes any more, and nobody is told. */
    this.stranded = false;
    /** Where its events go. @type {Record<string, ((value: any) => void)[]>} */
    this.listeners = { open: [], message: [], error: [], close: [] };
    /** When the last messages left, for the rate. @type {number[]} */
    this._sent = [];
    this.device.sockets.add(this);
    this.device.countSockets();
    const headers = this.device.faults.loseHeader ? {} : option.header;
    this._socket = new WebSocket(option.url, option.protocols ?? [], {
      headers: { ...headers, Referer: "https://servicewechat.com/wx0/0/page-frame.html" },
      handshakeTimeout: option.timeout ?? 60_000,
      perMessageDeflate: option.perMessageDeflate ?? false,
      autoPong: this.device.faults.autoPong,
    });
    this._socket.on("open", () => this._opened());
    this._socket.on("message", (data, binary) => this._message(data, binary));
    this._socket.on("error", (error) => this._failed(error.message));
    this._socket.on("close", (code, reason) => this._closed(code, reason.toString()));
    if (this.device.hole || this.device.faults.muteConnect) this.stranded = true;
    if (!this.device.connected) setImmediate(() => this.fail("网络错误"));
  }

  /** What the mini-program gets. @returns {WechatMiniprogram.SocketTask} */
  task() {
    return {
      send: (option) => this._send(option),
      close: (option) => this._close(option ?? {}),
      onOpen: (listener) => void this.listeners.open?.push(listener),
      onMessage: (listener) => void this.listeners.message?.push(listener),
      onError: (listener) => void this.listeners.error?.push(listener),
      onClose: (listener) => void this.listeners.close?.push(listener),
    };
  }

  /** The network under it breaks. @param {string} why */
  fail(why) {
    if (this.state === "ended") return;
    this._cut();
    this._tellFailure(why);
  }

  /** It ends and its own task never says so; iOS tells it once, to the deprecated global listener. */
  vanish() {
    if (this.state === "ended") return;
    this._cut();
    this.process.tell("socketClose", { code: 1006, reason: "abnormal closure" });
  }

  _cut() {
    this.state = "ended";
    this._socket.terminate();
    this.device.sockets.delete(this);
  }

  _opened() {
    if (this.state === "ended" || this.stranded) return;
    this.state = "open";
    this._tell("open", { header: {}, profile: {} });
    if (this.dismissed && this.device.faults.closeBeforeOpen) this._socket.close();
  }

  /** @param {WebSocket.RawData} data @param {boolean} binary */
  _message(data, binary) {
    if (this._swallowed() || this.state === "ended") return;
    const bytes = /** @type {Buffer} */ (data);
    this._later(() => {
      const content = binary ? this.process.buffer(bytes) : bytes.toString();
      for (const listener of this.listeners.message ?? []) this.process.enter(() => listener({ data: content }));
    });
  }

  /** @param {string} why */
  _failed(why) {
    if (this.state === "ended" || this.stranded) return;
    const opening = this.state === "opening";
    this._cut();
    this._tellFailure(opening && /Unexpected server response/.test(why) ? "Invalid HTTP status" : why);
  }

  /** Whether nothing passes. A stream that has lost a piece never goes on: what is after it waits for ever. */
  _swallowed() {
    if (this.device.hole) this.stranded = true;
    return this.stranded;
  }

  /** @param {number} code @param {string} reason */
  _closed(code, reason) {
    const told = this.state !== "ended" && !this.stranded;
    this.state = "ended";
    this.device.sockets.delete(this);
    if (told && !this.device.faults.loseClose) this._tell("close", this._closing(code, reason));
  }

  /** What the mini-program is told of a close. @param {number} code @param {string} reason */
  _closing(code, reason) {
    const { closeCode } = this.device.faults;
    if (this.dismissed) return { code: 1000, reason: "normal closure" }; // its own code and reason are ignored
    if (closeCode === "faithful") return { code, reason };
    return { code: closeCode, reason: closeCode === 1006 ? "abnormal closure" : "" };
  }

  /** @param {string} why */
  _tellFailure(why) {
    const { failure, loseClose } = this.device.faults;
    if (failure !== "close") this._tell("error", { errMsg: why });
    if (failure !== "error" && !loseClose) this._tell("close", { code: 1006, reason: "abnormal closure" });
  }

  /** @param {string} event @param {unknown} value */
  _tell(event, value) {
    this._later(() => {
      for (const listener of this.listeners[event] ?? []) this.process.enter(() => listener(this.process.copy(value)));
    });
  }

  /** @param {() => void} callback */
  _later(callback) {
    const { lateMs } = this.device.faults;
    if (lateMs > 0) setTimeout(callback, lateMs);
    else callback();
  }

  /** @param {WechatMiniprogram.SocketTaskSendOption} option */
  _send(option) {
    this.process.note(`send ${typeof option.data === "string" ? option.data.slice(0, 40) : "bytes"}`);
    if (this.state !== "open") {
      fail(this.process, option, `sendSocketMessage:fail ${NO_TASK}`);
      return;
    }
    const now = performance.now();
    this._sent = this._sent.filter((at) => now - at < 1_000);
    if (this._sent.length >= this.device.faults.sendsPerSecond) {
      fail(this.process, option, "sendSocketMessage:fail send too fast");
      return;
    }
    this._sent.push(now);
    this.device.counts.sent.push(String(option.data));
    if (!this._swallowed()) this._socket.send(option.data);
    succeed(this.process, option, { errMsg: "sendSocketMessage:ok" });
  }

  /** @param {WechatMiniprogram.SocketTaskCloseOption} option */
  _close(option) {
    if (this.state === "ended") {
      fail(this.process, option, `closeSocket:fail ${NO_TASK}`);
      return;
    }
    const heard = this.state === "open" || this.device.faults.closeBeforeOpen;
    // A close before onOpen is lost, so what was asked for is still wanted: whoever gave it up closes it when it opens.
    this.dismissed = true;
    if (heard && !this.stranded) this._socket.close();
    succeed(this.process, option, { errMsg: "closeSocket:ok" });
  }
}

/** @param {import('./process.mjs').Process} process @returns {WechatMiniprogram.Wx['connectSocket']} */
export function connectSocketOf(process) {
  return (option) => {
    const { device } = process;
    device.counts.connects += 1;
    process.note("connectSocket");
    const full = device.sockets.size >= device.faults.sockets;
    if (process.refusesNetwork || full) {
      const limit = `connectSocket:fail 同时最多发起 ${device.faults.sockets} 个 socket 请求，更多请参考文档。`;
      fail(process, option, full ? limit : SUSPENDED);
      return full && device.faults.limitReturns === "nothing" ? /** @type {any} */ (undefined) : deadTask(process);
    }
    const socket = new Socket(process, option);
    // "ok" means that there is a task, and nothing about a connection.
    succeed(process, option, { errMsg: "connectSocket:ok" });
    return socket.task();
  };
}

/** What is returned beside a failure: it never says anything.
 * @param {import('./process.mjs').Process} process @returns {WechatMiniprogram.SocketTask} */
function deadTask(process) {
  return {
    send: (option) => fail(process, option, `sendSocketMessage:fail ${NO_TASK}`),
    close: (option) => fail(process, option ?? {}, `closeSocket:fail ${NO_TASK}`),
    onOpen() {},
    onMessage() {},
    onError() {},
    onClose() {},
  };
}
