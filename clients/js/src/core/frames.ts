// Messages as frames of text, and back.

import type { Message } from "./effects.js";

/** Of three bytes each at most: the server takes 65,536 bytes. */
const FRAME_CHARACTERS = 21_000;

/** Messages in as few frames as the server takes. */
export function frames(messages: Message[]): string[] {
  const text = JSON.stringify(messages.length > 1 ? messages : messages[0]);
  const half = messages.length >> 1;
  if (half && text.length > FRAME_CHARACTERS) return frames(messages.slice(0, half)).concat(frames(messages.slice(half)));
  return text ? [text] : [];
}

/** The message of a frame; null where it is none. */
export function parsed(text: string): Message | null {
  try {
    const message = JSON.parse(text);
    return message && typeof message === "object" ? message : null;
  } catch (error) {
    return null;
  }
}
