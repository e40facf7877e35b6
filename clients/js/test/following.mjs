// A gateway for each test, clients that are closed after it, and what they tell.

import { afterEach, beforeEach } from "node:test";
import WebSocket from "ws";
import { createClient as create, nodePlatform } from "../dist/index.js";
import { TestGateway } from "./gateway.mjs";

export const QUICK = { backoffFirstMs: 5, backoffMostMs: 20, unknownMs: 5, pollMs: 10, saveMs: 5, dyingMs: 200, socketLimitMs: 20 };
// miniprogram.test.mjs holds the file with the shortened names to the same tests.
export const createClient = globalThis.createClientOfTheTest ?? create;
const opened = [];
/** The gateway of the test that runs. */
export let gateway;

beforeEach(async () => {
  gateway = await TestGateway.open();
});

afterEach(async () => {
  for (const client of opened.splice(0)) client.close();
  await gateway.close();
});

/** A place to keep cursors that outlives a client. */
export function shelf() {
  const kept = new Map();
  return {
    kept,
    get: (key, done) => done(kept.get(key) ?? null),
    set: (key, value) => kept.set(key, value),
    remove: (key) => kept.delete(key),
  };
}

export function client(options = {}) {
  const { storage, timing, ...given } = options;
  const platform = nodePlatform({ WebSocket, storage });
  const made = createClient({ url: gateway.url, platform, timing: { ...QUICK, ...timing }, ...given });
  opened.push(made);
  return made;
}

/** Subscribes, and keeps all that is told: [handler, seq or code]. `until` resolves when so many have come. */
export function follow(made, taskId, options = {}) {
  const told = [];
  const waiting = [];
  const say = (name) => (given, change) => {
    told.push([name, given.seq ?? given.errCode, change?.kind]);
    options[name]?.(given, change);
    waiting.splice(0).forEach((look) => look());
  };
  const names = ["onProgress", "onDone", "onFail", "onCancelled", "onLost", "onGone", "onError"];
  const handlers = Object.fromEntries(names.map((name) => [name, say(name)]));
  const subscription = made.subscribe(taskId, { ...options, ...handlers });
  const until = async (wanted) => {
    while (!told.some(([name, what]) => `${name} ${what}` === wanted)) await new Promise((resolve) => waiting.push(resolve));
  };
  return { told, subscription, until };
}

export function stateOf(made, wanted) {
  return new Promise((resolve) => {
    const look = () => made.state === wanted && (made.offStateChange(look), resolve());
    made.onStateChange(look);
    look();
  });
}
