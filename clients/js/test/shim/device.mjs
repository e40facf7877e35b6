// A phone: what outlives a mini-program's process (storage, network), its faults, and what it has counted.

/**
 * What a device does wrong. Each stands in WeChat's documentation or was reported of real devices; the defaults are kind.
 *
 * @typedef {object} Faults
 * @property {number} suspendAfterMs how long after it was hidden the JavaScript of a process stops
 * @property {number} refuseAfterShowMs how long after it is shown again no network call is taken ("suspend")
 * @property {'keep' | 'close' | 'silent'} onSuspend what becomes of open sockets then: they go on, their close is told
 *   when the process runs again, or they are gone and `SocketTask.onClose` never says so (only `wx.onSocketClose` does)
 * @property {'faithful' | 1000 | 1005 | 1006 | 0} closeCode which code a server's close shows
 * @property {'error and close' | 'close' | 'error'} failure which callbacks tell that a socket has failed
 * @property {boolean} loseClose `onClose` never comes
 * @property {boolean} muteConnect `success`, and then neither `onOpen` nor `onError` nor `onClose`
 * @property {boolean} closeBeforeOpen whether `close` before `onOpen` closes; on devices it does not
 * @property {number} sockets how many there may be at once: 5, on some devices 2
 * @property {'task' | 'nothing'} limitReturns what `connectSocket` returns beyond them
 * @property {number} sendsPerSecond beyond it `send` fails
 * @property {boolean} autoPong whether pings of the WebSocket protocol are answered
 * @property {number} lateMs events of a socket come so late
 * @property {boolean} loseHeader headers of a connect are not sent
 * @property {boolean} slowPromises promises are made of timers: no order of microtasks
 * @property {number} storageKeyBytes
 * @property {number} storageBytes
 * @property {number} chunkBytes a chunked answer comes in pieces of so many bytes; they may part a character
 */

/** @type {Faults} */
const KIND = {
  suspendAfterMs: 5_000,
  refuseAfterShowMs: 300,
  onSuspend: "keep",
  closeCode: "faithful",
  failure: "error and close",
  loseClose: false,
  muteConnect: false,
  closeBeforeOpen: false,
  sockets: 5,
  limitReturns: "task",
  sendsPerSecond: Infinity,
  autoPong: true,
  lateMs: 0,
  loseHeader: false,
  slowPromises: false,
  storageKeyBytes: 1_048_576,
  storageBytes: 10_485_760,
  chunkBytes: 65_536,
};

/** @typedef {WechatMiniprogram.OnNetworkStatusChangeListenerResult['networkType']} NetworkType */

/** What the device has seen of its mini-program. */
export class Counts {
  /** Sockets that were asked for, ever. */
  connects = 0;
  /** The most sockets at one moment that were asked for, have not ended, and were not told to close. */
  mostSockets = 0;
  /** The most slots taken at one moment: also by sockets that were told to close and have not ended. */
  mostSlots = 0;
  requests = 0;
  setDatas = 0;
  /** Messages and calls that left while the mini-program was hidden, by what they were. @type {string[]} */
  inBackground = [];
  /** Messages that were sent, in order. @type {string[]} */
  sent = [];
  /** Addresses that were asked for over HTTP, in order. @type {string[]} */
  urls = [];
}

export class Device {
  /** @param {Partial<Faults>} [faults] */
  constructor(faults = {}) {
    /** May be changed at any time. @type {Faults} */
    this.faults = { ...KIND, ...faults };
    /** @type {Map<string, string>} */
    this.storage = new Map();
    this.counts = new Counts();
    /** @type {NetworkType} */
    this.network = "wifi";
    /** Everything that is sent is swallowed, nothing arrives, and nobody is told. */
    this.hole = false;
    /** Sockets that take a slot. @type {Set<import('./socket.mjs').Socket>} */
    this.sockets = new Set();
    /** HTTP calls under way. @type {Set<{ interrupt(why: string): void }>} */
    this.requests = new Set();
    /** The mini-program that runs. @type {import('./process.mjs').Process | null} */
    this.process = null;
  }

  get connected() {
    return this.network !== "none";
  }

  /** Another network, or none: what is open breaks, and who listens is told. @param {NetworkType} network */
  switchNetwork(network) {
    this.network = network;
    this.hole = false;
    for (const socket of [...this.sockets]) socket.fail("network is changed");
    for (const request of [...this.requests]) request.interrupt("network is changed");
    this.process?.tell("networkStatusChange", { isConnected: this.connected, networkType: network });
  }

  /** What is open now stays open and is deaf and mute from now on; what is opened later is not. */
  strand() {
    for (const socket of this.sockets) socket.stranded = true;
  }

  countSockets() {
    const wanted = [...this.sockets].filter((socket) => !socket.dismissed).length;
    this.counts.mostSockets = Math.max(this.counts.mostSockets, wanted);
    this.counts.mostSlots = Math.max(this.counts.mostSlots, this.sockets.size);
  }
}
