// One agent in Node, with the package as it is published. Its storage is a folder that outlives it.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { WebSocket } from "ws";

import { follow, tell } from "./lines.mjs";

/** @type {(name: string) => any} */
const load = createRequire(import.meta.url);
const ledgerwire = load("../../dist/index.cjs");
const makeAgent = load("./agent.cjs");

/** @param {string} folder */
function storageIn(folder) {
  mkdirSync(folder, { recursive: true });
  const file = (/** @type {string} */ key) => path.join(folder, encodeURIComponent(key));
  return {
    get(/** @type {string} */ key, /** @type {(value: string | null) => void} */ done) {
      let text = null;
      try {
        text = readFileSync(file(key), "utf-8");
      } catch {
        // nothing was kept
      }
      done(text);
    },
    set: (/** @type {string} */ key, /** @type {string} */ value) => writeFileSync(file(key), value),
    remove: (/** @type {string} */ key) => rmSync(file(key), { force: true }),
  };
}

/** @type {any} */
let agent = null;
await follow((command) => {
  if (command.do === "start") {
    const storage = command.storage === undefined ? undefined : storageIn(command.storage);
    const platform = ledgerwire.nodePlatform({ WebSocket, storage });
    agent = makeAgent(ledgerwire, { ...command.options, platform }, tell);
  } else agent.act(command);
});
process.exit(0);
