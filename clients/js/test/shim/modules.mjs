// Files of a mini-program, each in WeChat's wrapper: the names of a browser exist in it, and are undefined.

import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import vm from "node:vm";

// As in built packages: define("x.js", function(require, module, exports, window, document, …) { … })
const PARAMETERS = [
  "require",
  "module",
  "exports",
  "window",
  "document",
  "frames",
  "self",
  "location",
  "navigator",
  "localStorage",
  "history",
  "Caches",
  "screen",
  "alert",
  "confirm",
  "prompt",
  "XMLHttpRequest",
  "WebSocket",
  "Reporter",
  "webkit",
  "WeixinJSCore",
  "fetch",
];

/** The modules of one process: each runs once. */
export class Modules {
  /** @param {vm.Context} context @param {string} root the folder of app.json
   * @param {Record<string, string>} packages where an npm package is that was not built into `miniprogram_npm` */
  constructor(context, root, packages = {}) {
    this._context = context;
    this._root = root;
    this._packages = packages;
    /** @type {Map<string, { exports: any }>} */
    this._loaded = new Map();
  }

  /** What a file exports. @param {string} file absolute @returns {any} */
  load(file) {
    const known = this._loaded.get(file);
    if (known) return known.exports;
    const source = readFileSync(file, "utf-8");
    const run = vm.compileFunction(source, PARAMETERS, { parsingContext: this._context, filename: file });
    const module = { exports: vm.runInContext("({})", this._context) };
    this._loaded.set(file, module);
    run((/** @type {string} */ name) => this.load(this._resolve(name, path.dirname(file))), module, module.exports);
    return module.exports;
  }

  /** @param {string} name @param {string} from @returns {string} */
  _resolve(name, from) {
    const candidates = /^\.{1,2}\//.test(name) ? [path.resolve(from, name)] : this._inPackages(name, from);
    for (const candidate of candidates) {
      for (const file of [candidate, `${candidate}.js`, path.join(candidate, "index.js")]) {
        if (existsSync(file) && /\.c?js$/.test(file)) return file;
      }
    }
    throw new Error(`module '${name}' is not defined, require args is '${name}'`);
  }

  /** @param {string} name @param {string} from @returns {string[]} */
  _inPackages(name, from) {
    const [packageName = "", ...rest] = name.split("/");
    const places = [];
    for (let folder = from; folder.startsWith(this._root); folder = path.dirname(folder)) {
      places.push(path.join(folder, "miniprogram_npm", name));
    }
    const given = this._packages[packageName];
    if (given) places.push(path.join(given, ...rest));
    return places;
  }
}
