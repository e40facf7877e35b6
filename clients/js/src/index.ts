/** The package `ledgerwire`: one client for mini-programs, browsers and Node. Importing it touches nothing global. */
import { makeClient } from "./client.js";
import { browserPlatform } from "./platforms/browser.js";
import { nodePlatform } from "./platforms/node.js";
import { wxPlatform } from "./platforms/wx.js";
import type { Platform } from "./platform.js";
import type { Client, ClientOptions } from "./types.js";

export { VERSION } from "./client.js";
export { isEnded } from "./core/stream.js";
export { DEFAULT_TIMING } from "./core/timing.js";
export { browserPlatform } from "./platforms/browser.js";
export { containerPlatform } from "./platforms/container.js";
export { nodePlatform } from "./platforms/node.js";
export { uniPlatform } from "./platforms/uni.js";
export { wxPlatform } from "./platforms/wx.js";
export type * from "./platform.js";
export type * from "./types.js";

declare const wx: { connectSocket?: unknown } | undefined;

/** One for the whole application. Connects when there is something to watch. */
export function createClient(options: ClientOptions): Client {
  return makeClient(options.platform || here(), options);
}

function here(): Platform {
  // A page in WeChat's browser has a `wx` too, without sockets.
  if (typeof wx !== "undefined" && typeof wx.connectSocket === "function") return wxPlatform(wx);
  return typeof document === "object" ? browserPlatform() : nodePlatform();
}
