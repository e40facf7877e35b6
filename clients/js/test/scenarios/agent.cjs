// One client, told what to do and telling what it is shown, in plain objects. The same file runs in a mini-program, a
// page and Node, so it is ES5 and knows none of them.

/* global module, self */
(function (root) {
  "use strict";

  /**
   * Commands, each `{do: …}`: `watch {task_id, after, wait_ms}`, `leave {task_id}`, `cancel {task_id, reason}`,
   * `close`. What is told is described in tests/vectors/README.md, and `{state}` and `{failed}` beside it.
   *
   * `options`: those of `createClient`, and `tokens`: what `getToken` gives, one after the other.
   */
  function makeAgent(ledgerwire, options, tell) {
    var given = {};
    for (var name in options) if (name !== "tokens") given[name] = options[name];
    var tokens = options.tokens;
    if (tokens) {
      given.getToken = function () {
        return tokens.length > 1 ? tokens.shift() : tokens[0];
      };
    }
    var client = ledgerwire.createClient(given);
    var watched = {};
    var degraded = false;
    var liveness = {};

    client.onStateChange(function (change) {
      if (change.degraded !== degraded) {
        degraded = change.degraded;
        if (change.state === "online") tell({ degraded: degraded });
      }
      tell({ state: change.state });
      if (change.error) tell({ refused: change.error.errCode });
    });
    client.onError(function (failure) {
      tell({ failed: failure.errCode, errMsg: failure.errMsg });
    });

    function shown(task, change) {
      var before = liveness[task.task_id];
      liveness[task.task_id] = task.liveness;
      if (change.kind === "liveness") {
        if (before !== task.liveness) tell({ liveness: task.liveness, task_id: task.task_id });
        return;
      }
      var event = {
        change: change.kind,
        task_id: task.task_id,
        seq: task.seq,
        status: task.status,
        progress: task.progress,
      };
      if (change.kind === "jumped") {
        event.reason = change.reason;
        event.from = change.from;
        event.to = change.to;
      }
      tell(event);
    }

    function act(command) {
      var id = command.task_id;
      if (command.do === "watch") {
        var how = {
          onState: shown,
          onGone: function () {
            tell({ unknown: id });
          },
          onError: function (failure) {
            tell({ failed: failure.errCode, task_id: id, errMsg: failure.errMsg });
          },
        };
        if (command.after !== undefined) how.after = command.after;
        if (command.wait_ms !== undefined) how.waitMs = command.wait_ms;
        watched[id] = client.subscribe(id, how);
      } else if (command.do === "leave") {
        watched[id].unsubscribe();
      } else if (command.do === "cancel") {
        client.cancel(id, { reason: command.reason }).then(
          function (receipt) {
            tell({ receipt: receipt.cancel.stage, task_id: id, status: receipt.status });
          },
          function (failure) {
            tell({ failed: failure.errCode, task_id: id, errMsg: failure.errMsg });
          },
        );
      } else if (command.do === "close") {
        client.close();
      }
    }

    return { act: act, client: client };
  }

  if (typeof module === "object" && module) module.exports = makeAgent;
  else root.makeAgent = makeAgent;
})(typeof self === "object" ? self : {});
