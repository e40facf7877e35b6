import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import vm from "node:vm";
import { BYTES, measure, PACKED_BYTES } from "../scripts/size.mjs";

const require = createRequire(import.meta.url);
const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const METHODS = ["subscribe", "cancel", "history", "connect", "onStateChange", "offStateChange", "onError", "offError", "bind", "behavior", "show", "hide", "forget", "close"];

/** A world with the language and nothing else, where no text becomes code. */
function bareRealm(globals = {}) {
  return vm.createContext(globals, { codeGeneration: { strings: false, wasm: false } });
}

test("the mini-program's file is ES5, within its budget, and takes nothing that is not there", () => {
  const { bytes, packedBytes, names } = measure();
  assert.ok(bytes <= BYTES, `${bytes} bytes`);
  assert.ok(packedBytes <= PACKED_BYTES, `${packedBytes} bytes, gzipped`);
  for (const name of ["window", "document", "eval", "Function", "WebSocket", "fetch", "localStorage", "globalThis", "process", "require", "Symbol", "Map", "Set"]) {
    assert.ok(!names.has(name), `it uses ${name}`);
  }
});

test("nothing global is touched when a file is loaded", () => {
  const module = { exports: {} };
  vm.runInContext(`(function(module,window,document,WebSocket){${read("../miniprogram_dist/index.js")}})`, bareRealm())(module);
  assert.deepEqual(Object.keys(module.exports).sort(), ["DEFAULT_TIMING", "VERSION", "containerPlatform", "createClient", "isEnded", "uniPlatform", "wxPlatform"]);
  const realm = bareRealm();
  vm.runInContext(read("../dist/ledgerwire.global.js"), realm);
  assert.deepEqual(Object.keys(realm), ["ledgerwire"]);
  assert.equal(typeof realm.ledgerwire.createClient, "function");
});

test("CommonJS, ESM and the types name the same things", async () => {
  const esm = await import("../dist/index.js");
  const cjs = require("../dist/index.cjs");
  assert.deepEqual(Object.keys(cjs).sort(), Object.keys(esm).sort());
  const types = read("../dist/types/index.d.ts");
  for (const name of Object.keys(esm)) assert.match(types, new RegExp(`\\b${name}\\b`));
  assert.equal(esm.VERSION, require("../package.json").version);
  assert.deepEqual(Object.keys(await import("../dist/react.js")).sort(), ["LedgerwireProvider", "useClient", "useConnection", "useTask"]);
  assert.deepEqual(Object.keys(await import("../dist/dom.js")), ["showTask"]);
});

test("a mini-program's client has every method, and works with nothing but wx", async () => {
  const frames = [];
  const listeners = {};
  const task = { send: ({ data }) => frames.push(JSON.parse(data)), close() {} };
  for (const name of ["onOpen", "onMessage", "onClose", "onError"]) task[name] = (call) => (listeners[name] = call);
  const wx = { connectSocket: () => task, request() {}, onAppShow() {}, onAppHide() {}, onNetworkStatusChange() {} };
  const module = { exports: {} };
  const realm = bareRealm({ wx, setTimeout, clearTimeout });
  vm.runInContext(`(function(module){${read("../miniprogram_dist/index.js")}})`, realm)(module);
  const client = module.exports.createClient({ url: "wss://example.org/v1/ws" });
  for (const name of METHODS) assert.equal(typeof client[name], "function", name);
  const told = new Promise((resolve) => client.subscribe("a", { onDone: resolve }));
  const say = (message) => listeners.onMessage({ data: JSON.stringify(message) });
  listeners.onOpen();
  assert.deepEqual(frames.pop(), { type: "hello", v: 1, client: "ledgerwire-js/0.1.0" });
  say({ type: "welcome", v: 1, session: "s", epoch: "e", ping_interval_ms: 25_000 });
  while (frames.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  const { type, id, tasks } = frames.pop();
  assert.deepEqual([type, tasks], ["subscribe", [{ task_id: "a" }]]);
  say({ type: "reply", id, ok: true });
  say({ type: "subscribed", task_id: "a", verdict: "ended", epoch: "e", seq: 3, recovered: false });
  say({ type: "snapshot", task: { task_id: "a", status: "completed", seq: 3, result: 42 } });
  assert.equal((await told).result, 42);
  client.close();
});

test("a lockfile names no host", () => {
  assert.doesNotMatch(read("../package-lock.json"), /https?:\/\/(?!opencollective|github\.com\/sponsors|tidelift)/);
});
