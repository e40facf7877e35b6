import { useConnection } from "ledgerwire/react";
import { useState } from "react";
import { History } from "./History.jsx";
import { Watched } from "./Watched.jsx";

const SAID = {
  idle: "nothing to watch yet",
  connecting: "connecting…",
  online: "live",
  polling: "asking every few seconds",
  offline: "offline, trying again",
  closed: "closed",
};

// What somebody has typed behind the # may be no encoded text at all.
function idInAddress() {
  const text = window.location.hash.slice(1);
  try {
    return decodeURIComponent(text) || null;
  } catch {
    return text;
  }
}

export function App() {
  const [taskId, setTaskId] = useState(idInAddress);
  const { state, degraded } = useConnection();
  const open = (id) => {
    window.location.hash = id === null ? "" : encodeURIComponent(id);
    setTaskId(id);
  };
  return (
    <main>
      <header>
        <h1>Tasks</h1>
        <span className={`connection ${degraded ? "degraded" : state}`}>{degraded ? "the ledger is away" : SAID[state]}</span>
      </header>
      <Open onOpen={open} />
      {taskId === null ? <History onOpen={open} /> : <Watched taskId={taskId} onLeave={() => open(null)} />}
    </main>
  );
}

function Open({ onOpen }) {
  const submitted = (event) => {
    event.preventDefault();
    const id = new FormData(event.currentTarget).get("id").trim();
    if (id) onOpen(id);
    event.currentTarget.reset();
  };
  return (
    <form onSubmit={submitted}>
      <input name="id" aria-label="Task id" placeholder="A task id, like import-42" autoComplete="off" pattern="[A-Za-z0-9][A-Za-z0-9._:\-]*" />
      <button>Watch</button>
    </form>
  );
}
