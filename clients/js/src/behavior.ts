/** For `behaviors: [client.behavior()]` of pages and components. */
import type { BehaviorOptions, Binding, BindOptions, CancelOptions, Client, Handlers, PageLike } from "./types.js";

declare const Behavior: ((options: Record<string, unknown>) => unknown) | undefined;

const BINDING = "__ledgerwire";

type Holder = PageLike & { [BINDING]?: Binding | undefined };

export function makeBehavior(client: Client, options: BehaviorOptions): unknown {
  const property = options.property || "task";
  const make = options.Behavior || (typeof Behavior === "function" ? Behavior : null);
  if (!make) throw new Error("behavior:fail no Behavior here");
  const stop = (holder: Holder) => {
    const binding = holder[BINDING];
    holder[BINDING] = undefined;
    if (binding) binding.stop();
  };
  const leave = function (this: Holder) {
    stop(this);
  };
  return make({
    data: { [property]: null },
    lifetimes: { detached: leave },
    methods: {
      /** Watches this task instead of the one before. */
      watchTask(this: Holder, taskId: string, handlers?: Handlers): Binding {
        stop(this);
        const given: BindOptions = Object.assign({ throttleMs: options.throttleMs }, options.handlers, handlers);
        const binding = client.bind(this, taskId, property, given);
        this[BINDING] = binding;
        return binding;
      },
      /** Asks for the end of the task that is watched. */
      cancelTask(this: Holder, given?: CancelOptions) {
        const binding = this[BINDING];
        return client.cancel(binding ? binding.subscription.taskId : "", given);
      },
      unwatchTask: leave,
    },
  });
}
