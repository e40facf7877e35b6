/** What a mini-program gets: the package without browsers and Node. Importing it touches nothing global. */
import { makeClient } from "./client.js";
import { wxPlatform } from "./platforms/wx.js";
import type { Client, ClientOptions } from "./types.js";

export { VERSION } from "./client.js";
export { isEnded } from "./core/stream.js";
export { DEFAULT_TIMING } from "./core/timing.js";
export { containerPlatform } from "./platforms/container.js";
export { uniPlatform } from "./platforms/uni.js";
export { wxPlatform } from "./platforms/wx.js";
export type * from "./platform.js";
export type * from "./types.js";

declare const wx: object;

/** One for the whole application, in app.js. Connects when there is something to watch. */
export function createClient(options: ClientOptions): Client {
  return makeClient(options.platform || wxPlatform(wx), options);
}
