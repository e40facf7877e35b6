/** `useTask(id)`: a task as state of a React component. */
import { createContext, createElement, useContext, useEffect, useState, type ReactNode } from "react";
import type { CancelOptions, Client, Failure, Receipt, State, SubscribeOptions, Task } from "./types.js";

const Context = createContext<Client | null>(null);

export interface ProviderProps {
  client: Client;
  children?: ReactNode;
}

/** Gives a client to all components below. */
export function LedgerwireProvider({ client, children }: ProviderProps) {
  return createElement(Context.Provider, { value: client }, children);
}

export function useClient(): Client {
  const client = useContext(Context);
  if (client === null) throw new Error("useClient:fail there is no LedgerwireProvider above this component");
  return client;
}

export interface Watched {
  /** Null before anything is known. */
  task: Task | null;
  /** Why nothing else will come: `errCode` is `gone` when nobody knows the id. */
  failure: Failure | null;
  cancel(options?: CancelOptions): Promise<Receipt>;
}

type Seen = { taskId: string | null; task: Task | null; failure: Failure | null };

/** Watches a task while the component is mounted; `null` watches nothing. */
export function useTask(taskId: string | null, options?: Pick<SubscribeOptions, "mode" | "waitMs">): Watched {
  const client = useClient();
  const { mode, waitMs } = options || {};
  const [seen, setSeen] = useState<Seen>({ taskId, task: null, failure: null });
  useEffect(() => {
    setSeen({ taskId, task: null, failure: null });
    if (taskId === null) return undefined;
    const failed = (failure: Failure) => setSeen((before) => ({ ...before, failure }));
    try {
      const subscription = client.subscribe(taskId, {
        mode,
        waitMs,
        onState: (task) => setSeen({ taskId, task, failure: null }),
        onGone: failed,
        onError: failed,
      });
      return () => subscription.unsubscribe();
    } catch (refused) {
      // No task id, or too many: thrown here it would take the whole page away.
      failed(refused as Failure);
      return undefined;
    }
  }, [client, taskId, mode, waitMs]);
  const current = seen.taskId === taskId ? seen : { task: null, failure: null };
  const cancel = (given?: CancelOptions) => client.cancel(taskId || "", given);
  return { task: current.task, failure: current.failure, cancel };
}

/** How the connection is. */
export function useConnection(): { state: State; degraded: boolean } {
  const client = useClient();
  const [connection, setConnection] = useState({ state: client.state, degraded: client.degraded });
  useEffect(() => {
    const now = () => setConnection({ state: client.state, degraded: client.degraded });
    client.onStateChange(now);
    now();
    return () => client.offStateChange(now);
  }, [client]);
  return connection;
}
