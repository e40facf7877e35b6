// A host speaks JSON lines: commands come in, what its agents tell goes out.

import { createInterface } from "node:readline";

/** @typedef {Record<string, any>} Content */

/** Do each command in its order until there are no more; the answer to `ask` is told as `{answer, …}`.
 * @param {(command: Content) => Content | void | Promise<Content | void>} act */
export async function follow(act) {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    const answer = await act(command);
    if (command.ask !== undefined) tell({ answer: command.ask, ...answer });
  }
}

/** @param {Content} content */
export function tell(content) {
  process.stdout.write(`${JSON.stringify(content)}\n`);
}
