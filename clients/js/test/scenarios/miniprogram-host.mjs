// A mini-program of files on one device: what its user does comes in, what its user sees goes out.

import { Device, MiniProgram } from "../shim/index.mjs";
import { follow } from "./lines.mjs";

const device = new Device();
/** @type {MiniProgram | null} */
let program = null;

/** @type {Record<string, (command: any) => void>} */
const DO = {
  launch: ({ folder, packages, globals }) => void (program = new MiniProgram(device, folder, { packages, globals })),
  open: ({ url }) => program?.router.open("navigateTo", url),
  call: ({ name, value }) => program?.process.enter(() => program?.page[name](program.process.copy(value))),
  back: () => program?.router.back(),
  hide: () => program?.hide(),
  show: () => program?.show(),
  kill: () => program?.kill(),
  look: () => {},
};

await follow((command) => {
  DO[command.do]?.(command);
  return {
    route: program?.route,
    data: program?.page["data"],
    toasts: program?.screen.toasts,
    errors: program?.process.errors.map(String),
    counts: device.counts,
  };
});
process.exit(0);
