import { useTask } from "ledgerwire/react";
import { useState } from "react";

const ENDED = ["completed", "failed", "cancelled", "lost"];

export function Watched({ taskId, onLeave }) {
  const { task, failure, cancel } = useTask(taskId);
  return (
    <section className="card" data-status={failure?.errCode ?? task?.status ?? "waiting"}>
      <h2>{taskId}</h2>
      {failure ? <Gone failure={failure} /> : task ? <Progress task={task} cancel={cancel} /> : <p className="quiet">Looking for it…</p>}
      <button className="plain" onClick={onLeave}>
        All tasks
      </button>
    </section>
  );
}

function Progress({ task, cancel }) {
  const [said, setSaid] = useState(null);
  const ended = ENDED.includes(task.status);
  const ask = () => {
    setSaid("asking…");
    cancel({ reason: "asked for on the page", onStage: setSaid }).catch(({ errMsg }) => setSaid(errMsg));
  };
  return (
    <>
      <p className="now">
        <strong>{task.status}</strong>
        {task.stage && <span>{task.stage}</span>}
        {task.liveness === "late" && <em>nothing heard from its worker</em>}
        <span className="number">{task.progress === null ? "" : `${Math.round(task.progress)} %`}</span>
      </p>
      <progress max="100" {...(task.progress === null && !ended ? {} : { value: task.progress ?? 0 })} />
      {task.message && <p>{task.message}</p>}
      {task.result !== null && <pre>{JSON.stringify(task.result, null, 2)}</pre>}
      {task.error !== null && <pre>{JSON.stringify(task.error, null, 2)}</pre>}
      {!ended && (
        <button onClick={ask} disabled={task.status === "cancelling"}>
          Cancel
        </button>
      )}
      {said && <span className="quiet">cancel: {said.replace("_", " ")}</span>}
    </>
  );
}

function Gone({ failure }) {
  return <p>{failure.errCode === "gone" ? "Nobody knows this task. It was asked for five times." : failure.errMsg}</p>;
}
