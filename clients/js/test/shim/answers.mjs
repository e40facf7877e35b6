// How wx answers: by the callbacks of the option object, or by a promise of the realm when there are none.

import vm from "node:vm";

/** @typedef {{ success?: (value: any) => void, fail?: (value: any) => void, complete?: (value: any) => void }} Callbacks */

/** @param {import('./process.mjs').Process} process @param {Callbacks} callbacks @param {unknown} value */
export function succeed(process, callbacks, value) {
  process.answer(callbacks.success, value);
  process.answer(callbacks.complete, value);
}

/** @param {import('./process.mjs').Process} process @param {Callbacks} callbacks @param {string} errMsg */
export function fail(process, callbacks, errMsg) {
  process.answer(callbacks.fail, { errMsg });
  process.answer(callbacks.complete, { errMsg });
}

/** Do the work of an API, and answer as it was asked to; the work throws what becomes `errMsg`.
 * @param {import('./process.mjs').Process} process @param {Callbacks | undefined} option @param {() => unknown} work
 * @returns {any} */
export function promised(process, option, work) {
  const asked = option ?? {};
  if (asked.success || asked.fail || asked.complete) {
    settle(process, asked, work);
    return undefined;
  }
  const make = vm.runInContext("(function (begin) { return new Promise(begin) })", process.context);
  return make((/** @type {(value: unknown) => void} */ success, /** @type {(why: unknown) => void} */ failed) =>
    settle(process, { success, fail: failed }, work),
  );
}

/** @param {import('./process.mjs').Process} process @param {Callbacks} callbacks @param {() => unknown} work */
function settle(process, callbacks, work) {
  let value;
  try {
    value = work();
  } catch (error) {
    fail(process, callbacks, /** @type {Error} */ (error).message);
    return;
  }
  succeed(process, callbacks, value);
}
