import assert from "node:assert/strict";
import { test } from "node:test";
import { makeSession } from "../build/es5/core/session.js";
import { DEFAULT_TIMING } from "../build/es5/core/timing.js";

/** A session at a time of its own, with a task to watch; `happens` gives the names of the effects. */
function begin(options = {}) {
  const session = makeSession({
    tokens: false, unknownAnswers: 5, pollAfter: 3, client: "t", timing: DEFAULT_TIMING, random: () => 1,
    connectsPerVisit: 10, ...options,
  }); // prettier-ignore
  const world = {
    session,
    now: 1_000_000,
    generation: 0,
    last: [],
    happens(kind, more = {}) {
      world.last = session.receive({ kind, generation: world.generation, ...more }, world.now);
      for (const effect of world.last) if (effect.do === "open") world.generation = effect.generation;
      return world.last.map((effect) => effect.do).filter((what) => what !== "state");
    },
    says: (message) => world.happens("message", { text: JSON.stringify(message) }),
    after(ms, kind = "tick", more = {}) {
      world.now += ms;
      return world.happens(kind, more);
    },
    sent: () => world.last.filter((effect) => effect.do === "send").map((effect) => JSON.parse(effect.text)),
    welcome() {
      world.happens("opened");
      return world.says({ type: "welcome", epoch: "e", ping_interval_ms: 25_000 });
    },
  };
  world.happens("start", { stored: null });
  world.first = world.happens("subscribe", { taskId: "a", mode: "all", waitMs: 0 });
  return world;
}

test("a connection is opened when there is something to watch, and closed a minute after there is nothing", () => {
  const world = begin();
  assert.deepEqual(world.first, ["open"]);
  world.welcome();
  world.happens("unsubscribe", { taskId: "a" });
  world.after(30_000);
  world.says({ type: "ping" });
  assert.deepEqual(world.after(29_999), []);
  assert.deepEqual(world.after(1), ["close"]);
  assert.equal(world.session.state(), "idle");
  world.happens("closed");
  assert.equal(world.session.next(), null);
});

test("silence beyond the ping interval and ten seconds ends a connection, whenever that is noticed", () => {
  const world = begin();
  world.welcome();
  assert.deepEqual(world.after(34_999), ["send"]); // the subscription
  assert.deepEqual(world.after(1), ["close"]);
  assert.deepEqual(world.after(1_999), []);
  assert.deepEqual(world.after(1), ["open"], "the next one, when the last has had its two seconds");
});

test("an error and a close of one socket count once", () => {
  const world = begin();
  assert.deepEqual(world.happens("failed", { reason: "x" }), ["close"]);
  assert.deepEqual(world.happens("closed"), []);
  assert.equal(world.session.next(), world.now + 500);
  assert.deepEqual(world.happens("closed"), []);
  assert.deepEqual(world.happens("failed", { reason: "x" }), []);
  assert.equal(world.session.next(), world.now + 500);
});

test("what was given up while opening is closed when it opens after all", () => {
  const world = begin();
  assert.deepEqual(world.after(10_000), ["close"]);
  const late = world.generation;
  assert.deepEqual(world.after(2_000), ["open"]);
  assert.deepEqual(world.happens("opened", { generation: late }), ["close"]);
  assert.equal(world.last[0].generation, late);
  world.welcome();
  assert.equal(world.session.state(), "online");
});

test("refused because the program is suspended: again every 300 ms, and no attempt is counted", () => {
  const world = begin({ connectsPerVisit: 2 });
  for (let n = 0; n < 20; n++) {
    assert.deepEqual(world.happens("refused", { reason: "connectSocket:fail jsapi has no permission,runningState=suspend" }), []);
    assert.equal(world.session.next(), world.now + 300);
    assert.deepEqual(world.after(300), ["open"]);
  }
});

test("after so many connections that failed nothing is tried until the user comes back", () => {
  const world = begin({ connectsPerVisit: 2, pollAfter: 0 });
  world.happens("closed");
  assert.deepEqual(world.after(60_000), ["open"]);
  world.happens("closed");
  assert.equal(world.session.next(), null);
  world.happens("hide");
  assert.deepEqual(world.after(1_000, "show"), ["open"]);
});

test("connections that held are not counted", () => {
  const world = begin({ connectsPerVisit: 2, pollAfter: 0 });
  for (let n = 0; n < 5; n++) {
    world.welcome();
    world.after(10_000);
    world.happens("closed");
    assert.deepEqual(world.after(60_000), ["open"]);
  }
});

test("too many sockets: five seconds at least", () => {
  const world = begin();
  world.happens("refused", { reason: "connectSocket:fail exceed max task count" });
  assert.equal(world.session.next(), world.now + 5_000);
});

test("the back-off doubles up to half a minute, and begins anew after ten seconds of a connection", () => {
  const world = begin({ pollAfter: 0, connectsPerVisit: Infinity });
  const pauses = [];
  for (let n = 0; n < 9; n++) {
    world.happens("closed");
    pauses.push(world.session.next() - world.now);
    world.after(pauses.at(-1));
  }
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
  world.welcome();
  world.after(9_999);
  world.happens("closed");
  assert.equal(world.session.next() - world.now, 30_000);
  world.after(30_000);
  world.welcome();
  world.after(10_000);
  world.happens("closed");
  assert.equal(world.session.next() - world.now, 500);
});

test("a short absence: the connection is asked whether it lives, and given up after three seconds", () => {
  const world = begin();
  world.welcome();
  world.after(20);
  world.happens("hide");
  assert.equal(world.session.next(), null);
  assert.deepEqual(world.says({ type: "ping" }), [], "nothing is sent in the background");
  assert.deepEqual(world.after(4_000, "show"), ["send"]);
  assert.deepEqual(world.sent(), [{ type: "ping" }]);
  assert.deepEqual(world.after(2_999), []);
  assert.deepEqual(world.after(1), ["close"]);
});

test("a long absence: another connection at once, whatever the old one seems to be", () => {
  const world = begin();
  world.welcome();
  world.after(100);
  world.happens("hide");
  assert.deepEqual(world.after(6_000, "show"), ["close"]);
  assert.deepEqual(world.happens("closed"), ["open"]);
});

test("what was known is stored when the program is hidden, without waiting", () => {
  const world = begin();
  world.welcome();
  world.after(20);
  world.says({ type: "reply", id: world.sent()[0].id, ok: true });
  world.says({ type: "subscribed", task_id: "a", verdict: "live", epoch: "e", seq: 7, recovered: false });
  world.says({ type: "snapshot", task: { task_id: "a", seq: 7, status: "running" } });
  assert.deepEqual(world.happens("hide"), ["save"]);
  assert.match(world.last[0].text, /"a","e",7/);
});

test("without a network nothing is tried; when it is back, soon", () => {
  const world = begin();
  world.happens("network", { connected: false, type: "none" });
  world.happens("closed");
  assert.equal(world.session.next(), null);
  assert.equal(world.session.state(), "offline");
  world.happens("network", { connected: true, type: "4g" });
  assert.equal(world.session.next(), world.now + 500);
});

test("the first that is heard of the network is a change", () => {
  const world = begin();
  world.welcome();
  assert.deepEqual(world.happens("network", { connected: true, type: "4g" }), ["send"]);
});

test("another network: the connection is asked whether it lives", () => {
  const world = begin();
  world.happens("network", { connected: true, type: "wifi" });
  world.welcome();
  assert.deepEqual(world.happens("network", { connected: true, type: "wifi" }), []);
  assert.deepEqual(world.happens("network", { connected: true, type: "4g" }), ["send"]);
});

test("a socket that is not to be had is not waited for: states are polled at once", () => {
  const world = begin();
  assert.deepEqual(world.happens("refused", { reason: "no_socket" }), ["request"]);
  assert.equal(world.last.find((effect) => effect.do === "request").path, "/v1/poll?ids=a&after=0");
});

test("a poll that fails counts for nothing; the next one comes later", () => {
  const world = begin();
  world.happens("refused", { reason: "no_socket" });
  for (let n = 0; n < 7; n++) {
    const request = world.last.find((effect) => effect.do === "request");
    world.happens("answered", { number: request.number, failure: "request:fail timeout", answer: null });
    for (let again = 0; again < 50 && !world.last.some((effect) => effect.do === "request"); again++) {
      world.now = world.session.next();
      if (world.happens("tick").includes("open")) world.happens("refused", { reason: "x" });
    }
  }
  assert.ok(world.last.some((effect) => effect.do === "request"), "it still asks");
});

test("a token that is refused for a poll and for the socket was refused once", () => {
  const world = begin({ tokens: true, pollAfter: 1 });
  assert.deepEqual(world.first, ["token"]);
  const give = (token) => world.happens("token", { number: asked++, token, failure: null });
  let asked = 1;
  give("old");
  world.happens("closed");
  const { number } = world.last.find((effect) => effect.do === "request");
  world.now = world.session.next();
  assert.deepEqual(world.happens("tick"), ["open"]);
  world.happens("opened");
  assert.equal(world.sent()[0].token, "old");
  const answer = { status: 401, body: { code: "unauthenticated", detail: "no", retryable: false } };
  assert.deepEqual(world.happens("answered", { number, failure: null, answer }), ["token"]);
  assert.deepEqual(world.says({ type: "bye", code: 4501, reason: "unauthenticated", retry: false, message: "no" }), ["close"]);
  world.happens("closed");
  assert.equal(world.session.state() === "closed", false);
  give("new");
  world.now = Math.max(world.now, world.session.next());
  world.happens("tick");
  world.happens("opened");
  assert.equal(world.sent()[0].token, "new");
});

test("while there is no token a socket that opens gets no hello", () => {
  const world = begin({ tokens: true, pollAfter: 1 });
  world.happens("token", { number: 1, token: "old", failure: null });
  world.happens("closed");
  const { number } = world.last.find((effect) => effect.do === "request");
  world.now = world.session.next();
  assert.deepEqual(world.happens("tick"), ["open"]);
  const answer = { status: 401, body: { code: "unauthenticated", detail: "no", retryable: false } };
  world.happens("answered", { number, failure: null, answer });
  assert.deepEqual(world.happens("opened"), ["close"]);
});

test("no frame is larger than the server takes", () => {
  const world = begin();
  for (let n = 0; n < 499; n++) {
    world.happens("subscribe", { taskId: `t${n}`.padEnd(128, "-"), mode: "all", after: { epoch: "e-".padEnd(34, "0"), seq: 1e6 }, waitMs: 600_000 });
  }
  world.happens("cancel", { taskId: "a", reason: "不".repeat(2_000), key: "k", timeoutMs: 9_000 });
  world.welcome();
  world.after(20);
  const frames = world.last.filter((effect) => effect.do === "send").map((effect) => effect.text);
  assert.equal(frames.flatMap((text) => JSON.parse(text)).flatMap(({ tasks = [] }) => tasks).length, 500);
  for (const text of frames) assert.ok(Buffer.byteLength(text) <= 65_536, `${Buffer.byteLength(text)} bytes`);
});

test("a hundred tasks in a message, all in one frame", () => {
  const world = begin();
  for (let n = 0; n < 249; n++) world.happens("subscribe", { taskId: `t${n}`, mode: "all", waitMs: 0 });
  world.welcome();
  world.after(20);
  assert.deepEqual(world.sent().flat().map(({ tasks }) => tasks.length), [100, 100, 50]);
});

test("what is stored is bounded, and what is damaged is as if it were not there", () => {
  const tasks = Array.from({ length: 400 }, (_, n) => [`t${n}`, "e", 1, 1_000_000 - n, { task_id: `t${n}`, status: "running", seq: 1 }]);
  const old = ["old", "e", 1, 1_000_000 - 8 * 86_400_000, null];
  for (const text of [JSON.stringify({ v: 1, tasks: [...tasks, old] }), "{", "null", '{"v":1,"tasks":7}', '{"v":9,"tasks":[]}']) {
    const world = begin();
    world.happens("start", { stored: text });
    const known = [...tasks, old].filter(([id]) => (world.happens("subscribe", { taskId: id, mode: "all", waitMs: 0 }), world.session.known(id)));
    assert.deepEqual(known.map(([id]) => id), text.length > 100 ? tasks.slice(0, 200).map(([id]) => id) : []);
  }
});

test("a large state is not stored; what was missed meanwhile is declared", () => {
  const world = begin();
  const task = { task_id: "a", seq: 7, status: "running", data: "x".repeat(3_000) };
  const snapshot = (of, given) => {
    of.welcome();
    of.after(20);
    const [{ id, tasks }] = of.sent();
    of.says({ type: "reply", id, ok: true });
    of.says({ type: "subscribed", task_id: "a", verdict: "live", epoch: "e", seq: given.seq, recovered: false });
    of.says({ type: "snapshot", task: given });
    assert.deepEqual(tasks, [{ task_id: "a" }], "no cursor without its state");
    return of.last.find((effect) => effect.do === "tell").change;
  };
  assert.deepEqual(snapshot(world, task), { kind: "snapshot" });
  world.happens("hide");
  const stored = world.last[0].text;
  const other = begin();
  other.happens("unsubscribe", { taskId: "a" });
  other.happens("start", { stored });
  other.happens("subscribe", { taskId: "a", mode: "all", after: undefined, waitMs: 0 });
  assert.deepEqual(snapshot(other, { ...task, seq: 9 }), { kind: "jumped", from: { epoch: "e", seq: 7 }, to: { epoch: "e", seq: 9 }, reason: "not_kept" });
});

test("late, and live again, are told without a transition", () => {
  const world = begin();
  world.welcome();
  world.after(20);
  world.says({ type: "reply", id: world.sent()[0].id, ok: true });
  world.says({ type: "subscribed", task_id: "a", verdict: "live", epoch: "e", seq: 1, recovered: false });
  world.says({ type: "snapshot", task: { task_id: "a", seq: 1, status: "running", liveness: "live" } });
  for (const liveness of ["late", "live"]) {
    world.says({ type: "liveness", task_id: "a", liveness, beat_age_ms: 9 });
    const { task, change } = world.last[0];
    assert.deepEqual([task.liveness, task.seq, change], [liveness, 1, { kind: "liveness" }]);
  }
});
