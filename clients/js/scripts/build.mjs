// Builds what is published: miniprogram_dist (one ES5 file), dist (ESM, CommonJS, one script for browsers, types).
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const at = (...names) => join(root, ...names);
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const compile = (...options) => execFileSync(process.execPath, [tsc, "-p", at("tsconfig.json"), ...options], { stdio: "inherit" });

const PRIVATE = /^_[a-z]/; // members that no application sees
const common = { bundle: true, legalComments: "none", mangleProps: PRIVATE, logLevel: "warning", absWorkingDir: root };

rmSync(at("dist"), { recursive: true, force: true });
rmSync(at("miniprogram_dist"), { recursive: true, force: true });
mkdirSync(at("miniprogram_dist"));

// TypeScript makes ES5 of each module; esbuild, which cannot, joins them.
compile("--outDir", at("build", "es5"), "--target", "ES5", "--declaration", "false", "--ignoreDeprecations", "5.0");
await build({
  ...common,
  entryPoints: [at("build", "es5", "miniprogram.js")],
  outfile: at("miniprogram_dist", "index.js"),
  format: "cjs",
  target: "es5",
  minify: true,
  charset: "utf8",
});

compile("--outDir", at("dist", "types"), "--emitDeclarationOnly");
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
