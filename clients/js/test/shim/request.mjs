// wx.request on real HTTP: `success` for any status, `fail` for transport errors only, ten at once.

import http from "node:http";
import { URL } from "node:url";

import { fail, succeed } from "./answers.mjs";

const AT_ONCE = 10;

/** @param {import('./process.mjs').Process} process @returns {WechatMiniprogram.Wx['request']} */
export function requestOf(process) {
  return (option) => new Request(process, /** @type {WechatMiniprogram.RequestOption} */ (option)).task();
}

class Request {
  /** @param {import('./process.mjs').Process} process @param {WechatMiniprogram.RequestOption} option */
  constructor(process, option) {
    this.process = process;
    this.device = process.device;
    this.option = option;
    this.done = false;
    /** @type {((value: any) => void)[]} */
    this.chunkListeners = [];
    /** @type {http.ClientRequest | null} */
    this.call = null;
    this.device.counts.requests += 1;
    this.device.counts.urls.push(option.url);
    process.note(`request ${option.url}`);
    if (process.refusesNetwork) this._fail("interrupted");
    else if (!this.device.connected) this._fail("网络错误");
    else if (this.device.requests.size >= AT_ONCE) this._fail("exceed max concurrent requests");
    else this._send();
  }

  /** @returns {WechatMiniprogram.RequestTask} */
  task() {
    return {
      abort: () => this.interrupt("abort"),
      onChunkReceived: (listener) => void this.chunkListeners.push(listener),
      offChunkReceived: (listener) => {
        this.chunkListeners = listener ? this.chunkListeners.filter((other) => other !== listener) : [];
      },
      onHeadersReceived() {},
      offHeadersReceived() {},
    };
  }

  /** @param {string} why */
  interrupt(why) {
    this.call?.destroy();
    this._fail(why);
  }

  _send() {
    const { option, device } = this;
    device.requests.add(this);
    const url = new URL(option.url);
    const method = option.method ?? "GET";
    let body = null;
    if (option.data !== undefined && method === "GET") {
      for (const [name, value] of Object.entries(option.data)) url.searchParams.set(name, String(value));
    } else if (option.data !== undefined) {
      body = typeof option.data === "string" ? option.data : JSON.stringify(option.data);
    }
    const headers = { "content-type": "application/json", ...option.header };
    const call = http.request(url, { method, headers, agent: false }, (answer) => this._answer(answer));
    this.call = call;
    call.setTimeout(option.timeout ?? 60_000, () => this.interrupt("timeout"));
    call.on("error", (error) => this._fail(error.message));
    if (device.hole) return; // until its timeout
    call.end(body);
  }

  /** @param {http.IncomingMessage} answer */
  async _answer(answer) {
    const parts = [];
    try {
      for await (const part of answer) {
        parts.push(part);
        if (this.option.enableChunked) this._chunks(part);
      }
    } catch (error) {
      this._fail(/** @type {Error} */ (error).message);
      return;
    }
    const text = Buffer.concat(parts).toString();
    const header = answer.headers;
    this._end(() =>
      succeed(this.process, this.option, {
        data: this._content(text),
        statusCode: answer.statusCode,
        header,
        cookies: [],
        profile: {},
        exception: {},
        errMsg: "request:ok",
      }),
    );
  }

  /** @param {Buffer} part */
  _chunks(part) {
    const size = this.device.faults.chunkBytes;
    for (let at = 0; at < part.length; at += size) {
      const data = this.process.buffer(part.subarray(at, at + size));
      for (const listener of this.chunkListeners) this.process.enter(() => listener({ data }));
    }
  }

  /** @param {string} text */
  _content(text) {
    if ((this.option.dataType ?? "json") !== "json") return text;
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }

  /** @param {string} why */
  _fail(why) {
    this._end(() => fail(this.process, this.option, `request:fail ${why}`));
  }

  /** @param {() => void} answer */
  _end(answer) {
    this.device.requests.delete(this);
    if (this.done) return;
    this.done = true;
    answer();
  }
}
