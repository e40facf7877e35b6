/** Node 20 or newer: with its own WebSocket (from 22 on) or that of the package `ws`. */
import type { Platform, Storage } from "../platform.js";
import { clock, openSocket, request, type WebSocketClass } from "./web.js";

export interface NodeOptions {
  /** The class; left out, the global one. */
  WebSocket?: WebSocketClass;
  /** Where cursors are kept; left out, nowhere. */
  storage?: Storage;
}

export function nodePlatform(options: NodeOptions = {}): Platform {
  return Object.assign({}, clock, {
    connectsPerVisit: Infinity,
    storage: options.storage || null,
    request,
    connect: (url: string, _timeoutMs: number, events: Parameters<Platform["connect"]>[2]) => {
      const make = options.WebSocket || (typeof WebSocket === "function" ? WebSocket : null);
      if (make === null) throw new Error("there is no WebSocket; pass the class of the package `ws`");
      return openSocket(make, url, events);
    },
    listen: () => () => undefined,
  });
}
