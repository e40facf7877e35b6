/** uni-app and Taro: pass `uni` or `Taro`. They are like `wx`; what some of their targets lack is looked for first. */
export { wxPlatform as uniPlatform } from "./wx.js";
