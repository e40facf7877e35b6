// Drives a session through random faults, beside a gateway on paper, and holds it to what it promises.
import assert from "node:assert/strict";
import { makeSession } from "../build/es5/core/session.js";
import { DEFAULT_TIMING } from "../build/es5/core/timing.js";
import { PaperLedger, PaperPeer } from "./paper.mjs";

/** A small generator, so that a seed tells the whole story. */
export function dice(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Driver {
  constructor(seed, tasks = 3) {
    this.roll = dice(seed);
    this.ledger = new PaperLedger();
    this.now = 1_800_000_000_000;
    this.hidden = false;
    this.sockets = new Map(); // generation → {state, toClient, peer, closedByClientAt, openAt}
    this.requests = [];
    this.stored = null;
    this.streams = new Map(Array.from({ length: tasks }, (_, n) => [`task-${n}`, { told: [], jumps: 0, over: null }]));
    this.counts = { transitions: 0, jumps: 0, opens: 0, polls: 0, snapshots: 0, restarts: 0, holes: 0 };
    this.begin();
  }

  begin() {
    this.session = makeSession({
      tokens: false, unknownAnswers: 1_000_000, pollAfter: 3, client: "driver", timing: DEFAULT_TIMING,
      random: this.roll, connectsPerVisit: Infinity,
    }); // prettier-ignore
    this.act({ kind: "start", stored: this.stored });
    for (const [taskId, stream] of this.streams) {
      if (stream.over === null) this.act({ kind: "subscribe", taskId, mode: "all", after: undefined, waitMs: 60_000 });
    }
  }

  pick(list) {
    return list[Math.floor(this.roll() * list.length)];
  }

  act(event) {
    for (const effect of this.session.receive(event, this.now)) this[`do_${effect.do}`](effect);
  }

  // ── effects ──

  do_open({ generation }) {
    this.#visible("open");
    const alive = [...this.sockets.values()].filter((one) => one.state !== "gone" && !this.#excused(one));
    assert.equal(alive.length, 0, `a second socket is opened beside ${JSON.stringify(alive.map((one) => one.state))}`);
    this.counts.opens += 1;
    this.sockets.set(generation, { state: "opening", toClient: [], peer: null, leftAt: null, openedAt: this.now });
  }

  do_send({ generation, text }) {
    this.#visible("send");
    const socket = this.sockets.get(generation);
    assert.ok(["open", "mute"].includes(socket.state), `a frame is sent on a socket that is ${socket.state}`);
    assert.equal(socket.leftAt, null, "a frame is sent on a socket that was closed");
    if (socket.state === "open") socket.peer.take(text);
  }

  do_close({ generation }) {
    const socket = this.sockets.get(generation);
    socket.leftAt ??= this.now;
  }

  do_request({ number, path }) {
    this.#visible("request");
    this.counts.polls += 1;
    this.requests.push({ number, path });
  }

  do_save({ text }) {
    this.stored = text;
  }

  do_state({ state }) {
    assert.notEqual(state, "closed");
  }

  do_tell({ taskId, task, change, cursor }) {
    const stream = this.streams.get(taskId);
    if (change.kind === "liveness") return;
    assert.equal(stream.over, null, "something is told after the end");
    const last = stream.told.at(-1) ?? null;
    assert.equal(task.seq, cursor.seq);
    if (change.kind === "transition") {
      this.counts.transitions += 1;
      const before = last === null ? 0 : last.seq;
      // After a restart a stored cursor may be older than what was told: then it is told again, in order.
      if (stream.restarted) assert.ok(task.seq <= before + 1, `${taskId}: hole from ${before} to ${task.seq}`);
      else assert.equal(task.seq, before + 1, `${taskId}: from ${before} to ${task.seq} in epoch ${cursor.epoch}`);
    } else if (change.kind === "jumped") {
      this.counts.jumps += 1;
      assert.equal(change.to.seq, task.seq);
    } else {
      this.counts.snapshots += 1;
      const follows = last === null || stream.restarted || (last.epoch === cursor.epoch && task.seq === last.seq + 1);
      assert.ok(follows, `${taskId}: an undeclared jump from ${JSON.stringify(last)} to ${JSON.stringify(cursor)}`);
    }
    stream.restarted = false;
    stream.told.push({ seq: task.seq, epoch: cursor.epoch, task });
  }

  do_over({ taskId, failure }) {
    assert.equal(failure, null);
    this.streams.get(taskId).over = true;
  }

  // ── what happens ──

  step() {
    const { commit, pass, settle, deliver, answer } = this;
    const usual = [commit, commit, commit, pass, pass, settle, settle, deliver, deliver, deliver, deliver, answer];
    const { breakOff, mute, skip, hideOrShow, network, bye, nudge, lateOpen, rareFault } = this;
    const faults = [breakOff, mute, skip, hideOrShow, network, bye, nudge, lateOpen, rareFault];
    this.pick(this.roll() < 0.8 ? usual : faults).call(this);
  }

  commit(status) {
    const taskId = this.pick([...this.streams.keys()]);
    const step = this.ledger.commit(taskId, { progress: Math.round(this.roll() * 100), ...(status ? { status } : {}) });
    if (step) for (const socket of this.sockets.values()) if (socket.state === "open" && socket.peer.greeted) socket.peer.told(step);
  }

  /** Time goes on: to the next tick, or by any amount (nobody is woken in the background). */
  pass() {
    const next = this.session.next();
    if (this.hidden) {
      assert.equal(next, null, "a timer is wanted in the background");
      this.now += this.roll() * 20_000;
    } else if (next !== null && this.roll() < 0.8) {
      this.now = Math.max(this.now, next);
      this.act({ kind: "tick" });
    } else {
      this.now += this.roll() * 3_000;
      this.act({ kind: "tick" });
    }
  }

  /** A socket that is opening opens, fails, is refused, or fails twice. */
  settle() {
    const [generation, socket] = [...this.sockets].find(([, one]) => one.state === "opening") ?? [];
    if (!socket) return;
    const how = this.roll();
    if (how < 0.6) this.open(generation, socket);
    else if (how < 0.7) this.end(generation, socket, [{ kind: "refused", reason: "connectSocket:fail suspend" }]);
    else if (how < 0.8) this.end(generation, socket, [{ kind: "failed", reason: "x" }, { kind: "closed" }]);
    else if (how < 0.9) this.end(generation, socket, [{ kind: "closed" }, { kind: "failed", reason: "x" }]);
    else socket.state = "black hole";
  }

  open(generation, socket) {
    socket.state = "open";
    socket.peer = new PaperPeer(this.ledger, (message) => socket.toClient.push(message));
    this.act({ kind: "opened", generation });
  }

  end(generation, socket, events) {
    socket.state = "gone";
    for (const event of events) this.act({ ...event, generation });
  }

  deliver() {
    for (const [generation, socket] of this.sockets) {
      if (socket.state !== "open") continue;
      for (const message of socket.toClient.splice(0, 1 + Math.floor(this.roll() * 5))) {
        this.act({ kind: "message", generation, text: JSON.stringify(message) });
      }
      if (this.roll() < 0.1) this.act({ kind: "message", generation, text: '{"type":"ping"}' });
      if (socket.leftAt !== null) this.end(generation, socket, [{ kind: "closed" }]);
    }
  }

  breakOff() {
    const [generation, socket] = [...this.sockets].find(([, one]) => ["open", "mute"].includes(one.state)) ?? [];
    if (!socket || this.roll() < 0.5) return;
    this.end(generation, socket, this.roll() < 0.5 ? [{ kind: "closed" }] : [{ kind: "failed", reason: "x" }, { kind: "closed" }]);
  }

  /** Half-open: nothing comes any more, no close either. */
  mute() {
    for (const socket of this.sockets.values()) {
      if (socket.state !== "open") continue;
      if (this.roll() < 0.3) socket.state = "mute";
    }
  }

  /** A server that leaves a transition out. */
  skip() {
    for (const socket of this.sockets.values()) {
      const at = socket.toClient.findIndex(({ type }) => type === "transition");
      if (at < 0 || socket.state !== "open") continue;
      socket.toClient.splice(at, 1);
      this.counts.holes += 1;
    }
  }

  /** What was given up while it was opening opens after all, as in a mini-program. */
  lateOpen() {
    for (const [generation, socket] of this.sockets) {
      if (socket.state === "black hole" && socket.leftAt !== null && this.now - socket.openedAt < 10_000) this.open(generation, socket);
    }
  }

  hideOrShow() {
    if (!this.hidden && this.roll() < 0.6) return;
    this.hidden = !this.hidden;
    this.act({ kind: this.hidden ? "hide" : "show" });
  }

  network() {
    this.act({ kind: "network", connected: this.roll() < 0.6, type: this.pick(["wifi", "4g"]) });
  }

  nudge() {
    this.act({ kind: "nudge" });
  }

  bye() {
    const [generation, socket] = [...this.sockets].find(([, one]) => one.state === "open" && one.peer.greeted) ?? [];
    if (!socket || this.roll() < 0.5) return;
    socket.peer.bye(4000, "shutting_down", true, Math.round(this.roll() * 3_000));
    this.deliver();
    if (this.roll() < 0.5 && socket.state !== "gone") this.end(generation, socket, [{ kind: "closed" }]);
  }

  answer() {
    const request = this.requests.shift();
    if (!request) return;
    if (this.roll() < 0.3) return this.act({ kind: "answered", number: request.number, failure: "timeout", answer: null });
    const answer = { status: 200, body: this.ledger.poll(request.path) };
    this.act({ kind: "answered", number: request.number, failure: null, answer });
  }

  rareFault() {
    if (this.roll() < 0.7) return;
    if (this.roll() < 0.5) return this.restart();
    this.ledger.rewind(`e-${this.ledger.epoch.slice(2) * 1 + 1}`);
    for (const [generation, socket] of this.sockets) {
      if (socket.state !== "open") continue;
      socket.toClient.length = 0;
      socket.peer.bye(4006, "epoch_changed", true, 100);
      this.deliver();
      if (socket.state !== "gone") this.end(generation, socket, [{ kind: "closed" }]);
    }
    for (const stream of this.streams.values()) if (stream.over === true) stream.rewound = true;
  }

  /** The program is killed; what was stored is there. */
  restart() {
    this.counts.restarts += 1;
    this.hidden = false;
    this.requests.length = 0;
    this.sockets.clear();
    for (const stream of this.streams.values()) stream.restarted = true;
    this.begin();
  }

  /** All faults are over: every task ends, and every stream with it. */
  heal() {
    if (this.hidden) this.hideOrShow();
    this.hidden = false;
    this.act({ kind: "network", connected: true, type: "wifi" });
    for (const taskId of this.streams.keys()) {
      const step = this.ledger.commit(taskId, { status: "completed", progress: 100 });
      if (step) for (const socket of this.sockets.values()) if (socket.state === "open" && socket.peer.greeted) socket.peer.told(step);
    }
    for (let round = 0; round < 2_000 && [...this.streams.values()].some((one) => one.over === null); round++) {
      const next = this.session.next();
      if (next !== null) this.now = Math.max(this.now, next);
      this.act({ kind: "tick" });
      for (const [generation, socket] of this.sockets) if (socket.state === "opening") this.open(generation, socket);
      for (let again = 0; again < 5; again++) this.deliver();
      const request = this.requests.shift();
      if (request) this.act({ kind: "answered", number: request.number, failure: null, answer: { status: 200, body: this.ledger.poll(request.path) } });
    }
    for (const [taskId, stream] of this.streams) {
      assert.equal(stream.over, true, `${taskId} did not end`);
      if (stream.rewound) continue;
      const { task, epoch } = stream.told.at(-1);
      const expected = this.ledger.snapshot(taskId);
      assert.deepEqual([task.status, task.seq, task.progress], [expected.status, expected.seq, expected.progress]);
      assert.equal(epoch, this.ledger.epoch);
    }
  }

  #visible(what) {
    assert.equal(this.hidden, false, `${what} in the background`);
  }

  /** Closed by the client, and waited for as long as it must be. */
  #excused(socket) {
    if (socket.leftAt === null) return false;
    const waited = this.now - socket.leftAt >= DEFAULT_TIMING.dyingMs;
    const never = socket.state === "opening" || socket.state === "black hole";
    return waited && (!never || this.now - socket.openedAt >= DEFAULT_TIMING.connectMs);
  }
}
