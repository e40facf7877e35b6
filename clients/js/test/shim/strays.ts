// What the compiler must refuse: a shim that strays from WeChat's own typings. `tsc` fails if any of these would pass.

import type { Wx } from "./wx.mjs";

declare const wx: Wx;

// @ts-expect-error a method that is missing
export const missing: Wx = { ...wx, connectSocket: undefined };

// @ts-expect-error a task without its methods
export const taskless: Wx = { ...wx, connectSocket: () => ({}) };

// @ts-expect-error a method that WeChat does not have
export const invented: Wx = { ...wx, readyState: 1 };

// @ts-expect-error a listener with another value
wx.onNetworkStatusChange((change: { online: boolean }) => change.online);
