// A gateway for tests, on a real port: `ws` and node:http around the paper ledger.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { PaperLedger, PaperPeer } from "./paper.mjs";

export class TestGateway {
  static async open(options = {}) {
    const gateway = new TestGateway(options);
    await new Promise((resolve) => gateway.http.listen(0, "127.0.0.1", resolve));
    return gateway;
  }

  constructor({ tokens = null, pingMs = 25_000 } = {}) {
    Object.assign(this, { tokens, pingMs, ledger: new PaperLedger(), peers: new Map(), upgrades: 0, requests: [], sockets: true });
    this.other = null; // what something else than a gateway says to every request
    this.frames = [];
    this.watching = new Set();
    this.http = createServer((request, response) => this.#answer(request, response));
    this.ws = new WebSocketServer({ noServer: true });
    this.http.on("upgrade", (request, socket, head) => {
      this.upgrades += 1;
      socket.on("error", () => undefined); // a client that was refused may reset its end
      if (!this.sockets) return socket.end("HTTP/1.1 503 Service Unavailable\r\n\r\n");
      this.ws.handleUpgrade(request, socket, head, (connection) => this.#connected(connection));
    });
  }

  get url() {
    return `ws://127.0.0.1:${this.http.address().port}/v1/ws`;
  }

  commit(taskId, change) {
    const step = this.ledger.commit(taskId, change);
    for (const peer of this.peers.values()) peer.told(step);
    return step;
  }

  /** Says something to everybody. */
  say(message) {
    for (const connection of this.peers.keys()) connection.send(JSON.stringify(message));
  }

  bye(...given) {
    for (const peer of this.peers.values()) peer.bye(...given);
  }

  /** Cuts every connection without a word. */
  cut() {
    for (const connection of this.peers.keys()) connection.terminate();
  }

  /** When something at this path was asked. */
  async asked(path) {
    while (!this.requests.some(({ url }) => url.startsWith(path))) await new Promise((resolve) => this.watching.add(resolve));
  }

  /** The first frame from a client of which this is true, also one that came already. */
  async frame(wanted) {
    for (;;) {
      const found = this.frames.find(wanted);
      if (found) return found;
      await new Promise((resolve) => this.watching.add(resolve));
    }
  }

  async close() {
    this.cut();
    this.ws.close();
    await new Promise((resolve) => {
      this.http.close(resolve);
      this.http.closeAllConnections();
    });
  }

  #connected(connection) {
    const send = (message) => connection.send(JSON.stringify(message));
    const peer = new PaperPeer(this.ledger, send, { pingMs: this.pingMs, tokens: this.tokens });
    this.peers.set(connection, peer);
    connection.on("message", (data) => {
      peer.take(String(data));
      this.frames.push(...peer.received.splice(0));
      for (const resolve of this.watching) resolve();
      this.watching.clear();
    });
    connection.on("close", () => this.peers.delete(connection));
  }

  #answer(request, response) {
    const { pathname } = new URL(request.url, "http://x");
    this.requests.push(request);
    for (const resolve of this.watching) resolve();
    this.watching.clear();
    const end = (status, body) => response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
    const token = request.headers.authorization?.slice(7);
    if (this.tokens !== null && !this.tokens.includes(token)) {
      return end(401, { code: "unauthenticated", detail: "The token is not valid.", retryable: false });
    }
    if (this.other !== null) return end(200, this.other);
    if (pathname === "/v1/poll") return end(200, this.ledger.poll(request.url));
    if (pathname === "/v1/tasks") return end(200, { tasks: [...this.ledger.tasks.keys()].map((id) => this.ledger.snapshot(id)), next: null });
    const cancelled = pathname.match(/^\/v1\/tasks\/(.+)\/cancel$/);
    if (!cancelled) return end(404, { code: "unknown_path", detail: "no such path", retryable: false });
    const { seq } = this.commit(cancelled[1], { status: "cancelling", cancel: { stage: "recorded", reason: null } });
    return end(200, { task_id: cancelled[1], seq, status: "cancelling", attempt: 0, repeat: false, cancel: { stage: "recorded", seq } });
  }
}
