// Builds what is published: miniprogram_dist (one ES5 file), dist (ESM, CommonJS, one script for browsers, types).
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { minify } from "terser";
import { internalNames } from "./internal.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const at = (...names) => join(root, ...names);
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const compile = (...options) => execFileSync(process.execPath, [tsc, "-p", at("tsconfig.json"), ...options], { stdio: "inherit" });
const common = { bundle: true, legalComments: "none", logLevel: "warning", absWorkingDir: root };

/** TypeScript makes ES5 of each module, esbuild (which cannot) joins them, terser makes them small. */
async function miniprogram() {
  const types = ["--declarationDir", at("dist", "types")];
  compile("--outDir", at("build", "es5"), "--target", "ES5", "--ignoreDeprecations", "5.0", ...types);
  const exported = readFileSync(at("src", "miniprogram.ts"), "utf8").match(/(?<=^export (function |\{ ))\w+/gm);
  const entry = `import * as all from "./miniprogram.js";\nmodule.exports = { ${exported.map((name) => `${name}: all.${name}`)} };\n`;
  writeFileSync(at("build", "es5", "entry.js"), entry);
  const joined = await build({
    ...common,
    entryPoints: [at("build", "es5", "entry.js")],
    write: false,
    format: "esm", // without the helpers of CommonJS; `module.exports` above is what remains
    target: "es5",
    mangleProps: internalNames(at("src")),
    logOverride: { "commonjs-variable-in-esm": "silent" },
  });
  const compress = { passes: 2, pure_getters: true, unsafe: true, unsafe_methods: false };
  const small = await minify(joined.outputFiles[0].text, { ecma: 5, toplevel: true, compress, mangle: { toplevel: true } });
  mkdirSync(at("miniprogram_dist"));
  writeFileSync(at("miniprogram_dist", "package.json"), '{"type":"commonjs"}\n'); // else Node takes it for what this package is
  writeFileSync(at("miniprogram_dist", "index.js"), `"use strict";${small.code}\n`);
}

async function others() {
  const entries = ["index", "react", "dom"].map((name) => at("src", `${name}.ts`));
  const modules = { ...common, target: "es2018", outdir: at("dist"), external: ["react"] };
  await build({ ...modules, entryPoints: entries, format: "esm" });
  await build({ ...modules, entryPoints: entries, format: "cjs", outExtension: { ".js": ".cjs" } });
  await build({
    ...common,
    entryPoints: [at("src", "index.ts")],
    outfile: at("dist", "ledgerwire.global.js"),
    format: "iife",
    globalName: "ledgerwire",
    target: "es2018",
    minify: true,
  });
}

for (const folder of ["dist", "miniprogram_dist", "build"]) rmSync(at(folder), { recursive: true, force: true });
await miniprogram();
await others();
