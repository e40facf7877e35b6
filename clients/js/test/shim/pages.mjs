// App, Page, Behavior and the routes of a mini-program: enough of them to run a page's logic.

/** @typedef {Record<string, any>} Options */

const STACK = 10;

/** One page that is open. What its code calls `this`. */
export class Page {
  /** @param {import('./process.mjs').Process} process @param {string} route @param {Options} options */
  constructor(process, route, options) {
    const behaviors = flat(options.behaviors ?? []);
    this.process = process;
    this.route = route;
    /** @type {Options[]} its own last */
    this.parts = [...behaviors, options];
    /** @type {Options} */
    this.instance = { route, is: route, options: {} };
    for (const part of this.parts) Object.assign(this.instance, part.methods);
    const hooks = new Set(["data", "behaviors", "methods", "lifetimes", "pageLifetimes"]);
    for (const [name, value] of Object.entries(options)) if (!hooks.has(name)) this.instance[name] = value;
    this.instance.data = process.copy(Object.assign({}, ...this.parts.map((part) => part.data)));
    this.instance.setData = (/** @type {Options} */ data, /** @type {(() => void) | undefined} */ callback) => {
      process.device.counts.setDatas += 1;
      for (const [path, value] of Object.entries(process.copy(data))) assign(this.instance.data, path, value);
      process.answer(callback, undefined);
    };
  }

  /** @param {Record<string, string>} query */
  load(query) {
    this.instance.options = query;
    this._lifetime("created");
    this._lifetime("attached");
    this._call("onLoad", query);
    this.show();
    this._lifetime("ready");
    this._call("onReady");
  }

  show() {
    for (const part of this.parts) this._run(part.pageLifetimes?.show);
    this._call("onShow");
  }

  hide() {
    for (const part of this.parts) this._run(part.pageLifetimes?.hide);
    this._call("onHide");
  }

  unload() {
    this._call("onUnload");
    this._lifetime("detached");
  }

  /** @param {string} name */
  _lifetime(name) {
    for (const part of this.parts) this._run(part.lifetimes?.[name] ?? part[name]);
  }

  /** Those of the behaviors, then the page's own as it is now: code may have put another there.
   * @param {string} name @param {unknown} [value] */
  _call(name, value) {
    for (const part of this.parts.slice(0, -1)) this._run(part[name], value);
    this._run(this.instance[name], value);
  }

  /** @param {((value: any) => void) | undefined} callback @param {unknown} [value] */
  _run(callback, value) {
    if (callback) this.process.enter(() => callback.call(this.instance, this.process.copy(value)));
  }
}

/** The pages of one process. */
export class Router {
  /** @param {import('./process.mjs').Process} process @param {string[]} tabs */
  constructor(process, tabs) {
    this._process = process;
    this._tabs = tabs;
    /** What `Page(…)` was called with, by route. @type {Map<string, Options>} */
    this.registered = new Map();
    /** The open pages, the visible one last. @type {Page[]} */
    this.stack = [];
  }

  get top() {
    return this.stack.at(-1);
  }

  /** Open a page. Throws what a device answers: no such page, or too many.
   * @param {'navigateTo' | 'redirectTo' | 'reLaunch' | 'switchTab'} api @param {string} url
   * @param {string} [from] the route that a relative one starts from */
  open(api, url, from = this.top?.route ?? "") {
    const [address = "", query = ""] = url.split("?");
    const route = address.startsWith("/") ? address.slice(1) : [...from.split("/").slice(0, -1), address].join("/");
    const options = this.registered.get(route);
    const tab = this._tabs.includes(route);
    if (!options) throw this._process.error(`${api}:fail page "${route}" is not found`);
    if (tab !== (api === "switchTab") && api !== "reLaunch") {
      throw this._process.error(`${api}:fail ${tab ? "can not navigateTo a tabbar page" : "not a tabbar page"}`);
    }
    if (api === "navigateTo" && this.stack.length >= STACK) {
      throw this._process.error("navigateTo:fail webview count limit exceed");
    }
    if (api === "navigateTo") this.top?.hide();
    else if (api === "redirectTo") this.stack.pop()?.unload();
    else while (this.stack.length > 0) this.stack.pop()?.unload();
    const page = new Page(this._process, route, options);
    this.stack.push(page);
    page.load(Object.fromEntries(new URLSearchParams(query)));
  }

  back(delta = 1) {
    for (let left = delta; left > 0 && this.stack.length > 1; left -= 1) this.stack.pop()?.unload();
    this.top?.show();
  }
}

/** Behaviors in the order in which they apply, those of behaviors first.
 * @param {Options[]} behaviors @returns {Options[]} */
function flat(behaviors) {
  return behaviors.flatMap((behavior) => [...flat(behavior.behaviors ?? []), behavior]);
}

/** `a.b[0].c` in the data of a page. @param {any} data @param {string} path @param {unknown} value */
function assign(data, path, value) {
  const names = path.replaceAll(/\[(\d+)\]/g, ".$1").split(".");
  const last = names.pop() ?? path;
  for (const [at, name] of names.entries()) data = data[name] ??= /^\d+$/.test(names[at + 1] ?? last) ? [] : {};
  data[last] = value;
}
