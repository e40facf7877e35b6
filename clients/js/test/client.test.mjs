import assert from "node:assert/strict";
import { test } from "node:test";
import { client, follow, gateway, shelf, stateOf } from "./following.mjs";

test("a task is followed from its state to its end", async () => {
  gateway.commit("a", { progress: 10 });
  const made = client();
  const { told, subscription, until } = follow(made, "a");
  await until("onProgress 1");
  gateway.commit("a", { progress: 60, data: { rows: 6 } });
  gateway.commit("a", { status: "completed", result: { rows: 10 } });
  const task = await subscription.done();
  assert.deepEqual([task.status, task.progress, task.data, task.result], ["completed", 60, { rows: 6 }, { rows: 10 }]);
  assert.deepEqual(told, [["onProgress", 1, "snapshot"], ["onProgress", 2, "transition"], ["onDone", 3, "transition"]]);
});

test("after a break it goes on after its cursor, and nothing is missed", async () => {
  gateway.commit("a");
  const { told, until } = follow(client(), "a");
  await until("onProgress 1");
  gateway.cut();
  gateway.commit("a");
  gateway.commit("a", { status: "failed", error: { reason: "disk" } });
  await until("onFail 3");
  assert.deepEqual(told.map(([, seq]) => seq), [1, 2, 3]);
  const again = gateway.frames.filter(({ type }) => type === "subscribe").at(-1);
  assert.deepEqual(again.tasks, [{ task_id: "a", after: { epoch: "e-1", seq: 1 } }]);
});

test("a task that nobody knows is gone after five answers, and only then", async () => {
  const { told, subscription, until } = follow(client(), "nobody-knows");
  await until("onGone gone");
  assert.equal(gateway.frames.filter(({ type }) => type === "subscribe").length, 5);
  assert.deepEqual(told.map(([name]) => name), ["onGone"]);
  await assert.rejects(subscription.done(), { errMsg: "subscribe:fail nobody knows this task", errCode: "gone", task_id: "nobody-knows" });
});

test("a task that is not there yet is waited for", async () => {
  const { told, until } = follow(client(), "later", { waitMs: 60_000 });
  await gateway.frame(({ type }) => type === "subscribe");
  gateway.commit("later", { status: "completed" });
  await until("onDone 1");
  assert.deepEqual(told, [["onDone", 1, "transition"]]);
});

test("a handler that throws harms nobody, and is told of", async () => {
  gateway.commit("a");
  const made = client();
  const failures = [];
  made.onError((failure) => failures.push(failure));
  made.onError(() => {
    throw new Error("from onError");
  });
  made.subscribe("a", { onProgress: () => assert.fail("from a handler") });
  const { until } = follow(made, "a");
  await until("onProgress 1");
  assert.deepEqual([failures[0].errMsg, failures[0].errCode, failures[0].task_id], ["handler:fail from a handler", "handler", "a"]);
  gateway.commit("a", { status: "completed" });
  await until("onDone 2");
});

test("who comes late to an ended task is told how it ended", async () => {
  gateway.commit("a", { status: "completed", result: 1 });
  const made = client();
  await follow(made, "a").subscription.done();
  const late = follow(made, "a");
  assert.equal((await late.subscription.done()).result, 1);
  assert.deepEqual(late.told, [["onDone", 1, "known"]]);
});

test("a new program shows what was stored, then goes on with what was missed", async () => {
  const storage = shelf();
  gateway.commit("a", { progress: 10 });
  const before = client({ storage });
  await follow(before, "a").until("onProgress 1");
  before.close();
  gateway.commit("a", { progress: 20 });
  const { told, until } = follow(client({ storage }), "a");
  await until("onProgress 2");
  assert.deepEqual(told, [["onProgress", 1, "known"], ["onProgress", 2, "transition"]]);
});

test("what was stored counts however late it is read, and is not written over before", async () => {
  const storage = shelf();
  gateway.commit("a", { progress: 10 });
  const before = client({ storage });
  await follow(before, "a").until("onProgress 1");
  before.close();
  const stored = storage.kept.get("ledgerwire");
  gateway.commit("a", { progress: 20 });
  gateway.commit("a", { progress: 30 });
  let read;
  const slow = { ...storage, get: (key, done) => (read = () => storage.get(key, done)) };
  const made = client({ storage: slow });
  const { told, until } = follow(made, "a");
  made.hide();
  made.show();
  assert.equal(storage.kept.get("ledgerwire"), stored);
  await new Promise((resolve) => setImmediate(resolve));
  read();
  await until("onProgress 3");
  assert.deepEqual(told, [["onProgress", 1, "known"], ["onProgress", 2, "transition"], ["onProgress", 3, "transition"]]);
});

test("what is forgotten is not shown to the next user", async () => {
  const storage = shelf();
  gateway.commit("a");
  const made = client({ storage });
  await follow(made, "a").until("onProgress 1");
  made.close();
  const other = client({ storage });
  other.forget();
  assert.equal(storage.kept.size, 0);
});

test("a refused token is asked for once more, then the client stops and says why", async () => {
  gateway.tokens = ["good"];
  gateway.commit("a");
  const asked = [];
  const tokens = ["stale", "good", "worse", "worst"];
  const made = client({ getToken: ({ reason }) => (asked.push(reason), Promise.resolve(tokens.shift())) });
  const { until, told, subscription } = follow(made, "a");
  await until("onProgress 1");
  assert.deepEqual(asked, ["start", "refused"]);
  gateway.tokens = ["another"];
  gateway.cut();
  await stateOf(made, "closed");
  assert.deepEqual(asked, ["start", "refused", "refused"]);
  assert.deepEqual(told.at(-1).slice(0, 2), ["onError", "unauthenticated"]);
  await assert.rejects(subscription.done(), { errCode: "unauthenticated", errMsg: "connect:fail Goodbye: unauthenticated." });
});

test("a token that is about to expire is replaced on the open connection", async () => {
  const tokens = ["first", "second"];
  const made = client({ getToken: () => tokens.shift() });
  await made.connect();
  gateway.say({ type: "notice", kind: "token_expiring" });
  const refresh = await gateway.frame(({ type }) => type === "refresh");
  assert.equal(refresh.token, "second");
  assert.equal(gateway.upgrades, 1);
});

test("many questions at once share one token", async () => {
  gateway.tokens = ["good"];
  let asked = 0;
  const getToken = () => new Promise((resolve) => setImmediate(() => resolve((asked += 1) && "good")));
  const made = client({ getToken });
  await Promise.all([made.connect(), made.history(), made.history({ owner: "alice", status: ["running", "failed"], limit: 5 })]);
  assert.equal(asked, 1);
  assert.match(gateway.requests.at(-1).url, /owner=alice&status=running%2Cfailed&limit=5$/);
});

test("bye says whether to return, whatever the close code", async () => {
  const made = client();
  await made.connect();
  gateway.bye(4000, "shutting_down", true, 1);
  await gateway.frame(() => gateway.upgrades === 2);
  await stateOf(made, "online");
  gateway.bye(4502, "unsupported_version", false);
  await stateOf(made, "closed");
  await assert.rejects(made.history(), { errCode: "closed" });
  assert.equal(gateway.upgrades, 2);
});

test("pings are answered at once", async () => {
  await client().connect();
  gateway.say({ type: "ping" });
  await gateway.frame(({ type }) => type === "pong");
});

test("without sockets states are polled, cancels go over HTTP, and a socket is taken when there is one", async () => {
  gateway.sockets = false;
  gateway.commit("a", { progress: 5 });
  const made = client();
  const { told, until } = follow(made, "a");
  await until("onProgress 1");
  assert.equal(made.state, "polling");
  gateway.commit("a");
  gateway.commit("a");
  await until("onProgress 3");
  assert.deepEqual(told.at(-1), ["onProgress", 3, "jumped"]);
  assert.equal((await made.cancel("a")).cancel.stage, "recorded");
  await until("onProgress 4");
  gateway.sockets = true;
  await stateOf(made, "online");
  gateway.commit("a", { status: "cancelled", cancel: { stage: "honoured", reason: null } });
  await until("onCancelled 5");
  assert.deepEqual(told.at(-1), ["onCancelled", 5, "transition"]);
});

test("polls too stop after five answers that nobody knows the id", async () => {
  gateway.sockets = false;
  const { until } = follow(client(), "nobody-knows");
  await until("onGone gone");
  assert.equal(gateway.requests.length, 5);
});

test("a cancel tells each stage that it reaches", async () => {
  gateway.commit("a");
  const made = client();
  await follow(made, "a").until("onProgress 1");
  const stages = [];
  const last = new Promise((resolve) => {
    made.cancel("a", { reason: "changed my mind", onStage: (stage) => stages.push(stage) === 3 && resolve() }).then((receipt) => {
      assert.equal(receipt.cancel.stage, "recorded");
      gateway.commit("a", { status: "cancelling", cancel: { stage: "delivered", reason: null } });
      gateway.commit("a", { status: "cancelled", cancel: { stage: "honoured", reason: null } });
    });
  });
  await last;
  assert.deepEqual(stages, ["recorded", "delivered", "honoured"]);
});

test("a cancel that no answer comes to fails in time", async () => {
  gateway.sockets = false;
  const made = client({ pollAfter: 0 });
  await assert.rejects(made.cancel("a", { timeoutMs: 50 }), { errMsg: "cancel:fail timeout", errCode: "timeout", retryable: true });
});
