/** The package `ledgerwire`: one client for mini-programs, browsers and Node. Importing it touches nothing global. */
import type { Client, ClientOptions, Platform } from "./types.js";

export type * from "./types.js";

/** One for the whole application. Connects when there is something to watch. */
export declare function createClient(options: ClientOptions): Client;
/** Node 20 or newer: with its own WebSocket (22), or the class of the package `ws`. */
export declare function nodePlatform(options?: { WebSocket?: unknown; storage?: unknown }): Platform;
export declare function browserPlatform(): Platform;
/** `wx`, or another object like it. */
export declare function wxPlatform(wx: object): Platform;
/** uni-app or Taro: pass `uni` or `Taro`. */
export declare function uniPlatform(uni: object): Platform;
/** WeChat Cloud Run, without a domain list: `wx.cloud.connectContainer` and `callContainer`. */
export declare function containerPlatform(
  wx: object,
  options: { config: { env: string }; service: string; path?: string },
): Platform;
/** Whether nothing can change any more. */
export declare function isEnded(task: { status: string }): boolean;
