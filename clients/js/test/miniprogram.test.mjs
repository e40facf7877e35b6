// The tests of the client again, on the file that a mini-program gets: there the names of members are shortened.
import { createRequire } from "node:module";

globalThis.createClientOfTheTest = createRequire(import.meta.url)("../miniprogram_dist/index.js").createClient;
await import("./client.test.mjs");
await import("./handlers.test.mjs");
