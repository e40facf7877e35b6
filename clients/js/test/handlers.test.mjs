import assert from "node:assert/strict";
import { test } from "node:test";
import { client, follow, gateway, stateOf } from "./following.mjs";

test("wx style: with callbacks nothing is returned", async () => {
  gateway.commit("a");
  const made = client();
  const page = await new Promise((resolve, reject) => {
    assert.equal(made.history({ owner: "x", success: resolve, fail: reject }), undefined);
  });
  assert.equal(page.tasks[0].task_id, "a");
});

test("an answer of something else than the gateway is a failed one", async () => {
  gateway.sockets = false;
  gateway.commit("a");
  gateway.other = { code: 0, data: null };
  const made = client();
  const { until } = follow(made, "a");
  const refused = { errCode: "bad_answer", retryable: true };
  await assert.rejects(made.history(), refused);
  await gateway.asked("/v1/poll");
  await stateOf(made, "offline");
  gateway.other = null;
  await until("onProgress 1");
});

test("what a handler asks for after the end is answered too", async () => {
  gateway.commit("a");
  const made = client();
  const answers = await new Promise((resolve) => {
    made.subscribe("a", {
      onProgress() {
        made.close();
        resolve([made.subscribe("b").done(), made.subscribe("a").done(), made.cancel("a"), made.history()]);
      },
    });
  });
  for (const answer of answers) await assert.rejects(answer, { errCode: "closed" });
});

test("who subscribes in the handler of the end is told of it", async () => {
  gateway.commit("a");
  const made = client();
  const second = new Promise((resolve) => {
    made.subscribe("a", { onDone: () => resolve(follow(made, "a")) });
  });
  await follow(made, "a").until("onProgress 1");
  gateway.commit("a", { status: "completed", result: 7 });
  const { subscription, told } = await second;
  assert.equal((await subscription.done()).result, 7);
  assert.deepEqual(told, [["onDone", 2, "known"]]);
});

test("to remove all listeners leaves connect() its answer", async () => {
  const made = client();
  const online = made.connect();
  made.offStateChange();
  await online;
});

test("a cancel that cannot be followed is refused in its promise", async () => {
  const made = client({ maxTasks: 1 });
  made.subscribe("a");
  await assert.rejects(made.cancel("b", { onStage: () => undefined }), { errCode: "too_many" });
});

test("wx style: a callback that throws is told of as a handler is", async () => {
  const made = client();
  const failed = new Promise((resolve) => made.onError(resolve));
  const complete = new Promise((resolve) => {
    made.history({ success: () => assert.fail("from success"), complete: resolve });
  });
  assert.equal((await failed).errMsg, "handler:fail from success");
  assert.deepEqual((await complete).tasks, []);
});

test("who waits longer for a task that is not there yet is heard too", async () => {
  const made = client();
  made.subscribe("later");
  const { until } = follow(made, "later", { waitMs: 60_000 });
  const { tasks } = await gateway.frame(({ type }) => type === "subscribe");
  assert.ok(tasks[0].wait_ms > 50_000);
  gateway.commit("later");
  await until("onProgress 1");
});

test("several watchers of one task share one subscription, and the last one ends it", async () => {
  gateway.commit("a");
  const made = client();
  const one = follow(made, "a");
  const two = follow(made, "a");
  await Promise.all([one.until("onProgress 1"), two.until("onProgress 1")]);
  one.subscription.unsubscribe();
  one.subscription.unsubscribe();
  gateway.commit("a");
  await two.until("onProgress 2");
  assert.equal(one.told.length, 1);
  two.subscription.unsubscribe();
  await gateway.frame(({ type }) => type === "unsubscribe");
  assert.equal(gateway.frames.filter(({ type }) => type === "subscribe").length, 1);
});

test("what is no task id, and too much, is refused at once", () => {
  const made = client({ maxTasks: 1 });
  assert.throws(() => made.subscribe("no spaces please"), { errCode: "bad_task_id" });
  made.subscribe("constructor");
  assert.throws(() => made.subscribe("b"), { errCode: "too_many" });
});

test("a page is given few setData, and always the last state", async () => {
  gateway.commit("a", { progress: 0 });
  const shown = [];
  let unloaded = 0;
  const page = { setData: ({ task }) => shown.push(task), onUnload: () => (unloaded += 1) };
  const made = client();
  const { until } = follow(made, "a");
  const binding = made.bind(page, "a", "task", { throttleMs: 60_000 });
  await until("onProgress 1");
  for (let n = 1; n <= 20; n++) gateway.commit("a", { progress: n });
  gateway.commit("a", { status: "completed", progress: 100 });
  await binding.subscription.done();
  assert.deepEqual(shown.map(({ progress }) => progress), [0, 100]);
  page.onUnload();
  assert.equal(unloaded, 1);
  await assert.doesNotReject(binding.subscription.done());
});

test("a closed client rejects what is open, and closes its socket", async () => {
  gateway.commit("a");
  const made = client();
  const { subscription, until } = follow(made, "a");
  await until("onProgress 1");
  const done = subscription.done();
  made.close();
  await assert.rejects(done, { errCode: "closed" });
  await assert.rejects(made.cancel("a"), { errCode: "closed" });
  await assert.rejects(made.subscribe("a").done(), { errCode: "closed" });
});
