import assert from "node:assert/strict";
import { test } from "node:test";
import { Driver } from "./driver.mjs";

const SEED = Number(process.env.LEDGERWIRE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const RUNS = 300;
const STEPS = 200;

test(`whatever happens: one socket, silence in the background, and streams that go on or say that they jumped (seed ${SEED})`, () => {
  const sum = {};
  for (let run = 0; run < RUNS; run++) {
    const seed = (SEED + run) >>> 0;
    const driver = new Driver(seed);
    try {
      for (let step = 0; step < STEPS; step++) driver.step();
      driver.heal();
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
    for (const [name, count] of Object.entries(driver.counts)) sum[name] = (sum[name] ?? 0) + count;
  }
  for (const [name, count] of Object.entries(sum)) assert.ok(count > RUNS / 10, `${name} happened only ${count} times`);
});
