/** What browsers and Node share: WebSocket and fetch. */
import type { HttpAnswer, Platform, Socket, SocketEvents } from "../platform.js";

interface WebSocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}
export type WebSocketClass = new (url: string) => any;

export function openSocket(make: WebSocketClass, url: string, events: SocketEvents): Socket {
  const socket: WebSocketLike = new make(url);
  socket.onopen = () => events.opened();
  socket.onmessage = ({ data }) => events.message(typeof data === "string" ? data : String(data));
  socket.onclose = () => events.closed();
  socket.onerror = () => undefined; // `close` follows, and says no more either
  return { send: (text) => socket.send(text), close: () => socket.close() };
}

export const request: Platform["request"] = ({ method, url, headers, body, timeoutMs }, done) => {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), timeoutMs);
  const answered = (answer: Response): Promise<HttpAnswer> =>
    answer.json().then(
      (json) => ({ status: answer.status, body: json }),
      () => ({ status: answer.status, body: null }),
    );
  fetch(url, { method, headers, body, signal: abort.signal, cache: "no-store" })
    .then(answered)
    .then(
      (answer) => {
        clearTimeout(timer);
        done(null, answer);
      },
      (error) => {
        clearTimeout(timer);
        done(String(error && error.message), null);
      },
    );
};

export const clock = {
  now: () => Date.now(),
  random: () => Math.random(),
  setTimer: (call: () => void, ms: number): unknown => setTimeout(call, ms),
  clearTimer: (timer: unknown) => clearTimeout(timer as number),
};
