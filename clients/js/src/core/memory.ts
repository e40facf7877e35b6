/**
 * What is kept of tasks beyond their subscription, and stored: the cursor, and the state as of it while that is small.
 * Bounded in number, age and bytes. Pure.
 */
import type { Cursor, Task } from "../types.js";
import { dictionary, type Dictionary } from "./effects.js";

const TASKS = 200;
const AGE_MS = 7 * 86_400_000;
/** 200 of them are 400 KB: storage in a mini-program takes 1 MB for a key. */
const STATE_CHARACTERS = 2_000;
const VERSION = 1;

export interface Kept {
  cursor: Cursor;
  at: number;
  task: Task | null;
  /** From before this program was started. */
  stored: boolean;
}

/** Reads what `dump` made; what cannot be read is as if it were not there. */
export function load(text: string | null, now: number): Dictionary<Kept> {
  const kept = dictionary<Kept>();
  try {
    const { v, tasks } = JSON.parse(text || "{}");
    if (v === VERSION) {
      for (const [taskId, epoch, seq, at, task] of tasks) {
        if (seq > 0 && now - at < AGE_MS) {
          kept[taskId] = { cursor: { epoch, seq }, at: Math.min(at, now), task, stored: true };
        }
      }
    }
  } catch (error) {
    // Written by something else, or cut off.
  }
  trim(kept);
  return kept;
}

export function dump(kept: Dictionary<Kept>): string {
  const tasks = Object.keys(kept).map((taskId) => {
    const { cursor, at, task } = kept[taskId]!;
    const small = JSON.stringify(task).length <= STATE_CHARACTERS;
    return [taskId, cursor.epoch, cursor.seq, at, small ? task : null];
  });
  return JSON.stringify({ v: VERSION, tasks });
}

/** Drops the oldest of too many. */
export function trim(kept: Dictionary<Kept>): void {
  const ids = Object.keys(kept);
  if (ids.length > TASKS) {
    ids.sort((one, other) => kept[other]!.at - kept[one]!.at);
    for (const id of ids.slice(TASKS)) delete kept[id];
  }
}
