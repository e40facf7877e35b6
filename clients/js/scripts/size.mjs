// What a mini-program pays for the package: ES5 in one file, no eval, no window, within the budget.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { parse } from "acorn";

const FILE = join(dirname(fileURLToPath(import.meta.url)), "..", "miniprogram_dist", "index.js");
export const BYTES = 30 * 1024;
export const PACKED_BYTES = 10 * 1024;

/** Its sizes and the names that it takes from outside. Throws where it is not ES5. */
export function measure() {
  const text = readFileSync(FILE);
  const tree = parse(text.toString("utf8"), { ecmaVersion: 5, sourceType: "script" });
  return { bytes: text.length, packedBytes: gzipSync(text, { level: 9 }).length, names: namesIn(tree) };
}

/** Every identifier that is no member. */
function namesIn(node, found = new Set()) {
  if (Array.isArray(node)) node.forEach((one) => namesIn(one, found));
  else if (node && typeof node.type === "string") {
    if (node.type === "Identifier") found.add(node.name);
    for (const [name, value] of Object.entries(node)) {
      const isName = (name === "property" && !node.computed) || (name === "key" && !node.computed);
      if (!isName) namesIn(value, found);
    }
  }
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { bytes, packedBytes } = measure();
  console.log(`miniprogram_dist/index.js: ${bytes} of ${BYTES} bytes, gzipped ${packedBytes} of ${PACKED_BYTES}`);
  process.exitCode = bytes > BYTES || packedBytes > PACKED_BYTES ? 1 : 0;
}
