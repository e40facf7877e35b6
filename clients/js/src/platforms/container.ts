/** WeChat Cloud Run: the socket by `wx.cloud.connectContainer`, requests by `callContainer`; no domain list is needed. */
import { messageOf } from "../core/effects.js";
import type { Platform } from "../platform.js";
import { answerOf, socketOf, wxPlatform, type WxLike } from "./wx.js";

export interface ContainerOptions {
  config: { env: string };
  service: string;
  /** Of the WebSocket (default "/v1/ws"). */
  path?: string;
}

/** `callContainer` ends every request after 15 s. */
const CONTAINER_REQUEST_MS = 15_000;

export function containerPlatform(wx: object, options: ContainerOptions): Platform {
  const { cloud } = wx as WxLike & { cloud: { connectContainer(o: any): any; callContainer(o: any): any } };
  const { config, service, path = "/v1/ws" } = options;
  return Object.assign(wxPlatform(wx), {
    connect: (_url: string, timeoutMs: number, events: Parameters<Platform["connect"]>[2]) => {
      const made = Promise.resolve(cloud.connectContainer({ config, service, path, timeout: timeoutMs }));
      return socketOf(made.then((answer) => answer.socketTask), events);
    },
    request: ({ method, path: asked, headers, body, timeoutMs }: Parameters<Platform["request"]>[0], done: Parameters<Platform["request"]>[1]) => {
      const header = Object.assign({ "X-WX-SERVICE": service }, headers);
      const timeout = Math.min(timeoutMs, CONTAINER_REQUEST_MS);
      const asking = cloud.callContainer({ config, path: asked, method, header, data: body === null ? undefined : body, timeout });
      Promise.resolve(asking).then(
        (answer) => done(null, answerOf(answer)),
        (error) => done(messageOf(error), null),
      );
    },
  });
}
