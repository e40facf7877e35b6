"""What a client asks to be told of: messages that open subscriptions. Pure; raises `ProtocolError`."""

from __future__ import annotations

from gateway.protocol import codec, messages
from gateway.protocol.access import check
from gateway.protocol.effects import Effect, Send
from gateway.protocol.rights import Rights
from gateway.protocol.subscriptions import Subscriptions


def subscribe(subscriptions: Subscriptions, rights: Rights, message: messages.Subscribe, now: float) -> list[Effect]:
    """Watch the tasks of a message; those that are not there yet for as long as it says."""
    check(rights.principal, "watch")
    tenant = rights.principal.tenant
    for wanted in message.tasks:
        codec.check_task_id(wanted.task_id)
    subscriptions.check_room(tenant, [wanted.task_id for wanted in message.tasks], attending=False)
    out: list[Effect] = [Send(codec.reply(message.id))]
    for wanted in message.tasks:
        wait_ms = message.wait_ms if wanted.wait_ms is None else wanted.wait_ms
        wait_until = now + wait_ms / 1000 if wait_ms else None
        out += subscriptions.add(
            tenant,
            wanted.task_id,
            mode=message.mode,
            cursor=wanted.after,
            wait_until=wait_until,
            sealed=rights.seals("watch", wanted.task_id),
        )
    return out


def attend(subscriptions: Subscriptions, rights: Rights, message: messages.Attend) -> list[Effect]:
    """Watch the tasks of a message for cancel requests."""
    check(rights.principal, "report")
    tenant = rights.principal.tenant
    for task_id in message.task_ids:
        codec.check_task_id(task_id)
    subscriptions.check_room(tenant, message.task_ids, attending=True)
    out: list[Effect] = [Send(codec.reply(message.id))]
    for task_id in message.task_ids:
        sealed = rights.seals("report", task_id)
        out += subscriptions.add(tenant, task_id, mode="cancels", sealed=sealed)
    return out
