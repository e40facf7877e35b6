/**
 * What is kept of tasks beyond their subscription, and stored: the cursor, and the state as of it while that is small.
 * Bounded in number, age and bytes. Pure.
 */
import type { Cursor, Task } from "../types.js";
import { dictionary, type Message } from "./effects.js";

const TASKS = 200;
const AGE_MS = 7 * 86_400_000;
/** 200 of them are 400 KB: storage in a mini-program takes 1 MB for a key. */
const STATE_CHARACTERS = 2_000;
const VERSION = 1;

export interface Kept {
  epoch: string;
  seq: number;
  at: number;
  task: Task | null;
  /** From before this program was started. */
  stored: boolean;
}

export class Memory {
  private _kept = dictionary<Kept>();

  /** Takes what `dump` made; what cannot be read is as if it were not there. */
  load(text: string | null, now: number): void {
    let read: Message | null = null;
    try {
      read = text === null ? null : JSON.parse(text);
    } catch (error) {
      return;
    }
    if (read === null || typeof read !== "object" || read.v !== VERSION || !Array.isArray(read.tasks)) return;
    for (const one of read.tasks) {
      if (!Array.isArray(one) || typeof one[0] !== "string" || typeof one[1] !== "string") continue;
      const [taskId, epoch, seq, at, task] = one;
      if (!(seq > 0) || !(now - at < AGE_MS)) continue;
      this._kept[taskId] = { epoch, seq, at: Math.min(at, now), task: task || null, stored: true };
    }
    this._trim(now);
  }

  find(taskId: string): Kept | null {
    return this._kept[taskId] || null;
  }

  keep(taskId: string, cursor: Cursor, task: Task | null, now: number): void {
    this._kept[taskId] = { epoch: cursor.epoch, seq: cursor.seq, at: now, task, stored: false };
    this._trim(now);
  }

  drop(taskId: string): void {
    delete this._kept[taskId];
  }

  clear(): void {
    this._kept = dictionary();
  }

  /** Text for the storage. */
  dump(): string {
    const tasks = Object.keys(this._kept).map((taskId) => {
      const { epoch, seq, at, task } = this._kept[taskId]!;
      const small = task !== null && JSON.stringify(task).length <= STATE_CHARACTERS;
      return [taskId, epoch, seq, at, small ? task : null];
    });
    return JSON.stringify({ v: VERSION, tasks });
  }

  private _trim(now: number): void {
    const ids = Object.keys(this._kept);
    if (ids.length <= TASKS) return;
    ids.sort((one, other) => this._kept[one]!.at - this._kept[other]!.at);
    for (const id of ids.slice(0, ids.length - TASKS)) delete this._kept[id];
    for (const id of ids) if (this._kept[id] && now - this._kept[id]!.at >= AGE_MS) delete this._kept[id];
  }
}
