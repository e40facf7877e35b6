/** Browsers. A hidden tab keeps its connection; only a page that is frozen or put away is in the background. */
import type { Platform, Storage } from "../platform.js";
import { clock, openSocket, request } from "./web.js";

export function browserPlatform(): Platform {
  return Object.assign({}, clock, {
    connectsPerVisit: Infinity,
    storage: pageStorage,
    request,
    connect: (url: string, _timeoutMs: number, events: Parameters<Platform["connect"]>[2]) =>
      openSocket(WebSocket, url, events),
    listen: (events: Parameters<Platform["listen"]>[0]) => {
      const network = () => events.network(navigator.onLine !== false, "");
      const seen = () => document.visibilityState === "visible" && events.nudge();
      const listeners: [EventTarget, string, () => void][] = [
        [window, "pagehide", () => events.hide()],
        [document, "freeze", () => events.hide()],
        [window, "pageshow", () => events.show()],
        [document, "resume", () => events.show()],
        [document, "visibilitychange", seen],
        [window, "online", network],
        [window, "offline", network],
      ];
      for (const [target, name, call] of listeners) target.addEventListener(name, call);
      return () => listeners.forEach(([target, name, call]) => target.removeEventListener(name, call));
    },
  });
}

/** Reading `localStorage` throws where the user has forbidden it. */
const pageStorage: Storage = {
  get(key, done) {
    let value: string | null = null;
    try {
      value = localStorage.getItem(key);
    } catch (error) {
      // as if nothing was kept
    }
    done(value);
  },
  set: (key, value) => localStorage.setItem(key, value),
  remove: (key) => localStorage.removeItem(key),
};
