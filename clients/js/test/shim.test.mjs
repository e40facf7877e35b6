// The shim behaves as the facts say that devices do, on real sockets.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { WebSocketServer } from "ws";

import { Device, MiniProgram } from "./shim/index.mjs";

/** @type {http.Server} */
let server;
/** @type {WebSocketServer} */
let sockets;
let port = 0;
/** @type {MiniProgram[]} */
const programs = [];
const folder = mkdtempSync(path.join(tmpdir(), "ledgerwire-shim-"));

before(async () => {
  server = http.createServer((request, answer) => {
    answer.statusCode = request.url?.startsWith("/missing") ? 404 : 200;
    answer.end(request.url?.startsWith("/text") ? "进度" : '{"error":"not found"}');
  });
  sockets = new WebSocketServer({ server, path: "/ws" });
  sockets.on("connection", (socket) => {
    socket.on("message", (data) => {
      if (data.toString() === "close me") socket.close(4000, "restart");
      else socket.send(`echo ${data}`);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  port = address !== null && typeof address === "object" ? address.port : 0;
});

after(() => {
  for (const app of programs) app.kill();
  for (const socket of sockets.clients) socket.terminate();
  sockets.close();
  server.close();
  server.closeAllConnections();
  rmSync(folder, { recursive: true });
});

/** A mini-program whose app.js is `source`; it tells the test by `tell(event, value)`.
 * @param {Device} device @param {string} source */
function program(device, source) {
  const root = mkdtempSync(path.join(folder, "app-"));
  mkdirSync(path.join(root, "pages"));
  writeFileSync(path.join(root, "app.json"), '{"pages":["pages/one"]}');
  writeFileSync(
    path.join(root, "app.js"),
    `var URL_WS = 'ws://127.0.0.1:${port}/ws', URL_HTTP = 'http://127.0.0.1:${port}'
    function open(option) {
      var task = wx.connectSocket(Object.assign({ url: URL_WS, success: function () { tell('success') },
        fail: function (why) { tell('fail', why.errMsg) } }, option))
      task.onOpen(function () { tell('open') }); task.onError(function () { tell('error') })
      task.onClose(function (end) { tell('close', end.code) }); task.onMessage(function (m) { tell('message', m.data) })
      return task
    }
    ${source}`,
  );
  writeFileSync(path.join(root, "pages/one.js"), "Page({ data: { rows: [] } })");
  /** @type {[string, unknown][]} */
  const told = [];
  /** @type {Set<() => void>} */
  const waiting = new Set();
  const app = new MiniProgram(device, root, {
    globals: {
      tell: (/** @type {string} */ event, /** @type {unknown} */ value) => {
        told.push([event, value]);
        for (const check of waiting) check();
      },
    },
  });
  programs.push(app);
  /** @param {string} event @returns {Promise<unknown>} what it was told with, now or later */
  const heard = (event) =>
    new Promise((resolve) => {
      const check = () => {
        const found = told.find(([name]) => name === event);
        if (!found) return;
        waiting.delete(check);
        resolve(found[1]);
      };
      waiting.add(check);
      check();
    });
  return { app, told, heard, events: () => told.map(([event]) => event) };
}

test("the realm has what WeChat has, and nothing of Node or a browser", async () => {
  const { told } = program(
    new Device(),
    `
    var names = ['window', 'document', 'WebSocket', 'fetch', 'EventSource', 'TextDecoder', 'URL', 'EventTarget', 'Buffer',
      'process', 'AbortController', 'queueMicrotask', 'structuredClone', 'Event']
    tell('found', names.filter(function (name) { return eval0(name) !== 'undefined' }).join())
    function eval0(name) {
      return { window: typeof window, document: typeof document, WebSocket: typeof WebSocket, fetch: typeof fetch,
        EventSource: typeof EventSource, TextDecoder: typeof TextDecoder, URL: typeof URL, EventTarget: typeof EventTarget,
        Buffer: typeof Buffer, process: typeof process, AbortController: typeof AbortController, Event: typeof Event,
        queueMicrotask: typeof queueMicrotask, structuredClone: typeof structuredClone }[name]
    }
    try { new Function('return 1'); tell('eval', true) } catch (error) { tell('eval', error.name) }
    tell('wx', typeof wx.connectSocket)`,
  );
  assert.deepEqual(told, [
    ["found", ""],
    ["eval", "EvalError"],
    ["wx", "function"],
  ]);
});

test("success means that there is a task, also where nobody listens; a failure is told twice", async () => {
  const { heard, told, events } = program(new Device(), `open({ url: URL_HTTP.replace('http', 'ws') + '/missing' })`);
  assert.equal(await heard("close"), 1006);
  assert.deepEqual(events(), ["success", "error", "close"]);
  assert.equal(told.length, 3);
});

test("a suspended process stands still, and hears what it has missed when it is shown again", async () => {
  const device = new Device({ suspendAfterMs: 20 });
  const { app, heard, events } = program(
    device,
    `
    var task = open(); task.onOpen(function () { task.send({ data: 'a' }) })
    var ticks = setInterval(function () { tell('tick') }, 1)
    setTimeout(function () { clearInterval(ticks); tell('one timer') }, 60)`,
  );
  await heard("message");
  app.hide();
  while (app.process.state !== "suspended") await new Promise((resolve) => setTimeout(resolve, 1));
  const before = events().length;
  for (const socket of sockets.clients) socket.send("missed");
  await new Promise((resolve) => setTimeout(resolve, 100)); // in which a running process would have ticked
  assert.equal(events().length, before);
  app.show();
  await heard("one timer");
  assert.ok(
    events()
      .slice(before)
      .filter((event) => event === "tick").length <= 1,
    "frozen timers do not pile up",
  );
  assert.ok(events().slice(before).includes("message"));
});

test("for a moment after it was shown again every network call is refused", async () => {
  const device = new Device({ suspendAfterMs: 1, refuseAfterShowMs: 10_000 });
  const { app, heard } = program(
    device,
    `wx.onAppShow(function () { tell('shown'); again && open() })
    var again = false; wx.onAppHide(function () { again = true })`,
  );
  app.hide();
  while (app.process.state !== "suspended") await new Promise((resolve) => setTimeout(resolve, 1));
  app.show();
  assert.match(String(await heard("fail")), /^connectSocket:fail jsapi has no permission.*suspend/);
});

test("sockets that vanish while it is suspended never say so, but to the global listener", async () => {
  const device = new Device({ suspendAfterMs: 1, onSuspend: "silent" });
  const { app, heard, events } = program(device, `open(); wx.onSocketClose(function () { tell('global') })`);
  await heard("open");
  app.hide();
  while (app.process.state !== "suspended") await new Promise((resolve) => setTimeout(resolve, 1));
  app.show();
  await heard("global");
  assert.ok(!events().includes("close") && !events().includes("error"));
  assert.equal(device.sockets.size, 0);
});

test("a device has so many sockets and no more", async () => {
  for (const limit of [2, 5]) {
    const device = new Device({ sockets: limit });
    const { heard, events } = program(device, `for (var i = 0; i <= ${limit}; i += 1) open()`);
    assert.match(String(await heard("fail")), new RegExp(`同时最多发起 ${limit} 个`));
    await heard("success");
    assert.equal(events().filter((event) => event === "fail").length, 1);
    assert.equal(device.counts.mostSockets, limit);
    device.process?.kill();
    assert.equal(device.sockets.size, 0);
  }
});

test("a close before the socket is open is lost", async () => {
  const { heard } = program(
    new Device(),
    `var task = open(); task.close({})
    task.onOpen(function () { task.send({ data: 'still here' }) })`,
  );
  assert.equal(await heard("message"), "echo still here");
});

test("the code of a close is not what the server said", async () => {
  for (const [closeCode, shown] of /** @type {const} */ ([
    ["faithful", 4000],
    [1005, 1005],
    [1006, 1006],
    [0, 0],
  ])) {
    const { heard } = program(
      new Device({ closeCode }),
      `
      var task = open(); task.onOpen(function () { task.send({ data: 'close me' }) })`,
    );
    assert.equal(await heard("close"), shown);
  }
});

test("another network breaks what is open and is told", async () => {
  const device = new Device({ failure: "error" });
  const { heard, events } = program(
    device,
    `open()
    wx.onNetworkStatusChange(function (change) { tell('network', change.networkType) })`,
  );
  await heard("open");
  device.switchNetwork("4g");
  assert.equal(await heard("network"), "4g");
  await heard("error");
  assert.ok(!events().includes("close"));
});

test("a request succeeds with any status, and fails only where there is no answer", async () => {
  const device = new Device();
  const { heard } = program(
    device,
    `
    wx.request({ url: URL_HTTP + '/missing', success: function (res) { tell('status', res.statusCode + res.data.error) } })
    wx.request({ url: 'http://127.0.0.1:1/', fail: function (why) { tell('failed', why.errMsg) } })`,
  );
  assert.equal(await heard("status"), "404not found");
  assert.match(String(await heard("failed")), /^request:fail /);
});

test("chunks of an answer may part a character", async () => {
  const { heard } = program(
    new Device({ chunkBytes: 2 }),
    `var sizes = []
    var call = wx.request({ url: URL_HTTP + '/text', enableChunked: true, dataType: 'text',
      success: function (res) { tell('done', res.data + sizes.join()) } })
    call.onChunkReceived(function (chunk) { sizes.push(chunk.data.byteLength) })`,
  );
  assert.equal(await heard("done"), "进度2,2,2");
});

test("storage has its limits, and outlives the process", async () => {
  const device = new Device({ storageKeyBytes: 20 });
  const first = program(
    device,
    `wx.setStorageSync('a', { b: 1 })
    wx.setStorage({ key: 'c', data: 'a sentence that is too long' }).catch(function (why) { tell('full', why.errMsg) })`,
  );
  assert.equal(await first.heard("full"), "setStorage:fail entry size limit reached");
  first.app.kill();
  assert.equal(device.process, null);
  const second = program(device, `tell('kept', wx.getStorageSync('a').b); tell('none', wx.getStorageSync('c'))`);
  assert.deepEqual(second.told, [
    ["kept", 1],
    ["none", ""],
  ]);
});

test("promises may be made of timers", async () => {
  const { heard, events } = program(
    new Device({ slowPromises: true }),
    `
    Promise.resolve().then(function () { tell('promise') }); setTimeout(function () { tell('timer') }, 0)
    Promise.resolve(1).then(function () { throw new Error('x') }).catch(function () { return 2 }).then(function (n) { tell('end', n) })`,
  );
  assert.equal(await heard("end"), 2);
  assert.ok(events().includes("timer") && events().includes("promise"));
});

test("setData takes paths, and copies", () => {
  const { app } = program(new Device(), "");
  const rows = [{ id: 1 }];
  app.page.setData({ rows, "rows[1].id": 2 });
  assert.equal(JSON.stringify(app.page.data), '{"rows":[{"id":1},{"id":2}]}');
  assert.notEqual(app.page.data.rows, rows);
  assert.equal(app.device.counts.setDatas, 1);
});
