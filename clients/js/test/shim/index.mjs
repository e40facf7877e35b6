// A mini-program in a bare realm: `launch` runs the files of a folder as WeChat would, on a device of the test's own.

import { readFileSync } from "node:fs";
import path from "node:path";

import { Modules } from "./modules.mjs";
import { Router } from "./pages.mjs";
import { Process } from "./process.mjs";
import { Screen, wxOf } from "./wx.mjs";

export { Device } from "./device.mjs";

/** One run of a mini-program. */
export class MiniProgram {
  /** @param {import('./device.mjs').Device} device @param {string} folder with app.json
   * @param {{ packages?: Record<string, string>, url?: string, globals?: Record<string, unknown> }} [options]
   *   `packages`: folders of npm packages that were not built; `url`: the page to begin with; `globals`: what the test
   *   hands to the code under test */
  constructor(device, folder, { packages, url, globals } = {}) {
    device.process?.kill();
    this.device = device;
    this.screen = new Screen();
    this.process = new Process(device);
    device.process = this.process;
    const root = path.resolve(folder);
    const config = JSON.parse(readFileSync(path.join(root, "app.json"), "utf-8"));
    /** @type {string[]} */
    const tabs = (config.tabBar?.list ?? []).map((/** @type {{ pagePath: string }} */ tab) => tab.pagePath);
    this.router = new Router(this.process, tabs);
    this.wx = wxOf(this.process, this.router, this.screen);
    const modules = new Modules(this.process.context, root, packages);
    /** @type {Record<string, any>} */
    this.app = {};
    let registering = "";
    Object.assign(this.process.context, globals, {
      wx: this.wx,
      App: (/** @type {Record<string, any>} */ options) => Object.assign(this.app, options),
      getApp: () => this.app,
      Page: (/** @type {Record<string, any>} */ options) => this.router.registered.set(registering, options),
      Behavior: (/** @type {Record<string, any>} */ options) => options,
      getCurrentPages: () => this.router.stack.map((page) => page.instance),
    });
    modules.load(path.join(root, "app.js"));
    for (const route of config.pages) {
      registering = route;
      modules.load(path.join(root, `${route}.js`));
    }
    this.process.enter(() => this.app.onLaunch?.({ scene: 1001, path: url ?? config.pages[0], query: {} }));
    this.process.show();
    this._runApp("onShow");
    this.router.open("reLaunch", `/${url ?? config.pages[0]}`);
  }

  /** The visible page's instance. */
  get page() {
    return this.router.top?.instance ?? {};
  }

  get route() {
    return this.router.top?.route;
  }

  hide() {
    this.router.top?.hide();
    this._runApp("onHide");
    this.process.hide();
  }

  show() {
    this.process.show();
    this._runApp("onShow");
    this.router.top?.show();
  }

  kill() {
    this.process.kill();
  }

  /** @param {string} name */
  _runApp(name) {
    this.process.enter(() => this.app[name]?.({ scene: 1001, path: "", query: {} }));
  }
}
