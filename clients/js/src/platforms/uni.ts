/** uni-app and Taro: like `wx`, with some callbacks that are there only on some targets. */
import type { Platform } from "../platform.js";
import { wxPlatform } from "./wx.js";

export function uniPlatform(uni: object): Platform {
  return Object.assign(wxPlatform(uni), { name: "uni" });
}
