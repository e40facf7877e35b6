// Many agents, each in a mini-program of its own on a device of its own; `who` says which one is meant.

import path from "node:path";
import { fileURLToPath } from "node:url";

import { Device, MiniProgram } from "../shim/index.mjs";
import { follow, tell } from "./lines.mjs";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const PACKAGES = { ledgerwire: path.join(HERE, "../../miniprogram_dist") };

/** @typedef {{ device: Device, program: MiniProgram, options: object, tell: (event: object) => void }} Phone */

/** @type {Map<number, Phone>} */
const phones = new Map();

/** @param {Phone} phone */
const launch = (phone) =>
  new MiniProgram(phone.device, path.join(HERE, "app"), {
    packages: PACKAGES,
    globals: { options: phone.options, tell: phone.tell },
  });

/** What only a phone can be asked for. @type {Record<string, (phone: Phone, command: any) => object | void | Promise<object | void>>} */
const DO = {
  fault: ({ device }, { faults }) => void Object.assign(device.faults, faults),
  hide: ({ program }) => program.hide(),
  show: ({ program }) => program.show(),
  kill: ({ program }) => program.kill(),
  launch: (phone) => void (phone.program = launch(phone)),
  network: ({ device }, { type }) => device.switchNetwork(type),
  strand: ({ device }) => device.strand(),
  hole: ({ device }, { on }) => void (device.hole = on),
  occupy: ({ program }, { sockets, url }) => occupy(program, sockets, url),
  counts: ({ device, program }) => ({
    ...device.counts,
    suspended: program.process.state === "suspended",
    errors: program.process.errors.map(String),
    sockets: device.sockets.size,
  }),
};

/** Other sockets of the same mini-program. Ends those that were there. @type {WeakMap<MiniProgram, WechatMiniprogram.SocketTask[]>} */
const others = new WeakMap();

/** @param {MiniProgram} program @param {number} count @param {string} url */
async function occupy(program, count, url) {
  for (const task of others.get(program) ?? []) task.close({});
  const tasks = Array.from({ length: count }, () => program.wx.connectSocket({ url }));
  others.set(program, tasks);
  await Promise.all(tasks.map((task) => new Promise((resolve) => task.onOpen(resolve))));
}

await follow(async (command) => {
  const who = command.who ?? 0;
  if (command.do === "start") {
    const device = new Device(command.faults);
    const say = (/** @type {object} */ event) => tell({ who, ...event });
    const phone = /** @type {Phone} */ ({ device, options: command.options, tell: say });
    phones.set(who, phone);
    phone.program = launch(phone);
    return;
  }
  const phone = phones.get(who);
  if (!phone) throw new Error(`nobody is ${who}`);
  const act = DO[command.do];
  if (act) return act(phone, command);
  phone.program.process.enter(() => phone.program.app.agent.act(phone.program.process.copy(command)));
});
process.exit(0);
