// The object `wx` of one process. What it has is typed by WeChat's own typings: `npm run types` fails when it strays.

import { promised } from "./answers.mjs";
import { requestOf } from "./request.mjs";
import { connectSocketOf } from "./socket.mjs";
import { storageOf } from "./storage.mjs";

/**
 * @typedef {Pick<WechatMiniprogram.Wx, 'connectSocket' | 'request' | 'setStorage' | 'getStorage' | 'removeStorage'
 *   | 'setStorageSync' | 'getStorageSync' | 'removeStorageSync' | 'onAppShow' | 'offAppShow' | 'onAppHide'
 *   | 'offAppHide' | 'onNetworkStatusChange' | 'offNetworkStatusChange' | 'getNetworkType' | 'onSocketClose'
 *   | 'navigateTo' | 'redirectTo' | 'reLaunch' | 'switchTab' | 'navigateBack' | 'showToast' | 'showModal'
 *   | 'stopPullDownRefresh'>} Wx
 */

/** What the user was shown. */
export class Screen {
  /** @type {string[]} */
  toasts = [];
  /** @type {string[]} */
  modals = [];
}

/** @param {import('./process.mjs').Process} process @param {import('./pages.mjs').Router} router @param {Screen} screen
 * @returns {Wx} */
export function wxOf(process, router, screen) {
  /** @param {'navigateTo' | 'redirectTo' | 'reLaunch' | 'switchTab'} api @returns {(option: any) => any} */
  const route = (api) => (option) =>
    promised(process, option, () => {
      router.open(api, option.url);
      return { errMsg: `${api}:ok` };
    });
  return {
    ...storageOf(process),
    connectSocket: connectSocketOf(process),
    request: requestOf(process),
    onAppShow: (listener) => process.on("appShow", listener),
    offAppShow: (listener) => process.off("appShow", listener),
    onAppHide: (listener) => process.on("appHide", listener),
    offAppHide: (listener) => process.off("appHide", listener),
    onNetworkStatusChange: (listener) => process.on("networkStatusChange", listener),
    offNetworkStatusChange: (listener) => process.off("networkStatusChange", listener),
    onSocketClose: (listener) => {
      process.off("socketClose", undefined); // only the last one counts
      process.on("socketClose", listener);
    },
    getNetworkType: (option) =>
      promised(process, option, () => ({
        networkType: process.device.network,
        errMsg: "getNetworkType:ok",
      })),
    navigateTo: route("navigateTo"),
    redirectTo: route("redirectTo"),
    reLaunch: route("reLaunch"),
    switchTab: route("switchTab"),
    navigateBack: (option) =>
      promised(process, option, () => {
        router.back(option?.delta);
        return { errMsg: "navigateBack:ok" };
      }),
    stopPullDownRefresh: (option) => promised(process, option, () => ({ errMsg: "stopPullDownRefresh:ok" })),
    showToast: (option) =>
      promised(process, option, () => {
        screen.toasts.push(option.title);
        return { errMsg: "showToast:ok" };
      }),
    showModal: (option) =>
      promised(process, option, () => {
        screen.modals.push(option?.content ?? "");
        return { confirm: true, cancel: false, content: "", errMsg: "showModal:ok" };
      }),
  };
}
