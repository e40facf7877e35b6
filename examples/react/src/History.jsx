import { useClient } from "ledgerwire/react";
import { useEffect, useState } from "react";

export function History({ onOpen }) {
  const client = useClient();
  const [{ tasks, failure }, setPage] = useState({ tasks: null, failure: null });
  useEffect(() => {
    let here = true;
    client.history({ limit: 20 }).then(
      (page) => here && setPage({ tasks: page.tasks, failure: null }),
      (because) => here && setPage({ tasks: null, failure: because }),
    );
    return () => {
      here = false;
    };
  }, [client]);
  if (failure) return <p className="card">The history cannot be had just now ({failure.errMsg}).</p>;
  if (tasks === null) return null;
  if (tasks.length === 0) return <p className="card">There is no task yet.</p>;
  return (
    <ul className="card">
      {tasks.map((task) => (
        <li key={task.task_id}>
          <button className="plain" onClick={() => onOpen(task.task_id)}>
            {task.task_id}
          </button>
          <span className="quiet">{task.kind}</span>
          <span data-status={task.status}>{task.status}</span>
        </li>
      ))}
    </ul>
  );
}
