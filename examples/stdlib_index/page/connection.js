// Performs a stream's effects on a real WebSocket, a timer and the page's wake-up events.
//
// Decides nothing: what to send and when to connect again is `stream.js`. Never touches the page's elements.

const TICK_MS = 250; // how often the absolute times are looked at; a sleeping tab looks when it wakes

export class Connection {
  /** `told` is called with every {what, …} that the stream has to tell. */
  constructor({ url, stream, told }) {
    this.url = url;
    this.stream = stream;
    this.told = told;
    this.socket = null;
    this.timer = null;
    this.leaving = new AbortController();
  }

  start() {
    const nudge = () => document.visibilityState === "visible" && this.happened({ kind: "nudge" });
    for (const [target, name] of [[document, "visibilitychange"], [window, "online"], [window, "pageshow"]]) {
      target.addEventListener(name, nudge, { signal: this.leaving.signal });
    }
    const tick = () => this.happened({ kind: "tick", offline: !navigator.onLine });
    window.addEventListener("offline", tick, { signal: this.leaving.signal });
    this.timer = setInterval(tick, TICK_MS);
    this.happened({ kind: "start" });
  }

  /** Leaves for good, without a word to the stream. */
  stop() {
    this.leaving.abort();
    clearInterval(this.timer);
    this.#close();
  }

  happened(happening) {
    for (const effect of this.stream.receive(happening, Date.now())) this.#perform(effect);
    if (this.stream.phase === "over") this.stop();
  }

  #perform(effect) {
    if (effect.do === "connect") this.#open();
    else if (effect.do === "close") this.#close();
    else if (effect.do === "tell") this.told(effect);
    else if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(effect.message));
  }

  #open() {
    this.#close();
    const socket = new WebSocket(this.url);
    socket.onopen = () => this.happened({ kind: "opened" });
    socket.onclose = ({ code }) => this.happened({ kind: "closed", code });
    socket.onmessage = ({ data }) => {
      const message = parsed(data);
      if (message) this.happened({ kind: "frame", message });
    };
    this.socket = socket;
  }

  #close() {
    const { socket } = this;
    if (!socket) return;
    socket.onopen = socket.onclose = socket.onmessage = null;
    socket.close();
    this.socket = null;
  }
}

function parsed(data) {
  try {
    const message = JSON.parse(data);
    return message !== null && typeof message === "object" ? message : null;
  } catch {
    return null;
  }
}
