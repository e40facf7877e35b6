// wx.setStorage and its kin: JSON in a map that outlives the process, with the limits of a device.

import { promised } from "./answers.mjs";

/** @param {import('./process.mjs').Process} process */
export function storageOf(process) {
  const { storage, faults } = process.device;

  /** @param {string} api @param {string} key @param {unknown} value */
  const put = (api, key, value) => {
    const text = JSON.stringify(value) ?? "null";
    const others = [...storage].reduce((sum, [name, other]) => (name === key ? sum : sum + other.length), 0);
    if (text.length > faults.storageKeyBytes) throw process.error(`${api}:fail entry size limit reached`);
    if (others + text.length > faults.storageBytes) throw process.error(`${api}:fail storage limit reached`);
    storage.set(key, text);
  };
  /** @param {string} key */
  const get = (key) => {
    const text = storage.get(key);
    return text === undefined ? "" : process.copy(JSON.parse(text));
  };

  /** @satisfies {Partial<WechatMiniprogram.Wx>} */
  const api = {
    /** @type {WechatMiniprogram.Wx['setStorage']} */
    setStorage: (option) =>
      promised(process, option, () => {
        put("setStorage", option.key, option.data);
        return { errMsg: "setStorage:ok" };
      }),
    /** @type {WechatMiniprogram.Wx['getStorage']} */
    getStorage: (option) =>
      promised(process, option, () => {
        if (!storage.has(option.key)) throw process.error("getStorage:fail data not found");
        return { data: get(option.key), errMsg: "getStorage:ok" };
      }),
    /** @type {WechatMiniprogram.Wx['removeStorage']} */
    removeStorage: (option) =>
      promised(process, option, () => {
        storage.delete(option.key);
        return { errMsg: "removeStorage:ok" };
      }),
    /** @type {WechatMiniprogram.Wx['setStorageSync']} */
    setStorageSync: (key, data) => put("setStorageSync", key, data),
    /** @type {WechatMiniprogram.Wx['getStorageSync']} */
    getStorageSync: (key) => get(key),
    /** @type {WechatMiniprogram.Wx['removeStorageSync']} */
    removeStorageSync: (key) => void storage.delete(key),
  };
  return api;
}
