// Which member names no application and no server ever sees: those are shortened in the mini-program's file.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

// Members of messages that are one word; those of several words have a "_", and are never shortened.
const WIRE = "type id ok error code message retry retryable task tasks after epoch seq mode token client v verdict recovered waiting from to reason kind detail key stage status body";
const HEADERS = "Authorization";
const BUILT_IN = [Array, String, Object, Promise, JSON, Math, Number, Date, RegExp, Function];
const IDENTIFIER = /[A-Za-z$_][\w$]*/g;

const names = (file) => readFileSync(file, "utf8").replace(/\/\*[^]*?\*\/|\/\/.*/g, "").match(IDENTIFIER);
const below = (folder) => readdirSync(folder).map((name) => join(folder, name));

/** A pattern of the names that are used in the client's inside only. `src`: the folder of the sources. */
export function internalNames(src) {
  const at = (...some) => some.map((name) => join(src, `${name}.ts`));
  const seen = new Set(`${WIRE} ${HEADERS}`.split(" "));
  for (const one of BUILT_IN) for (const owner of [one, one.prototype ?? {}]) Object.getOwnPropertyNames(owner).forEach((name) => seen.add(name));
  const outside = [...at("types", "platform", "behavior", "binding", "index", "miniprogram"), ...below(join(src, "platforms"))];
  for (const file of outside) names(file).forEach((name) => seen.add(name));
  const inside = [...at("client", "performer", "watcher"), ...below(join(src, "core"))].flatMap(names);
  const internal = new Set(inside.filter((name) => !seen.has(name) && !name.includes("_")));
  return new RegExp(`^(?:${[...internal].join("|")})$`);
}
