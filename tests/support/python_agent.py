"""The Python client as an agent: commands come as JSON lines, what it is shown goes out as JSON lines.

Run as a program. Cursors are kept in the file `storage`, as an application would keep them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import orjson

import ledgerwire
from ledgerwire import Change, Cursor, Jumped, Snapshot, Timing, WorkerLiveness

CONNECTION_EVERY_SECONDS = 0.01


def tell(**event: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(event) + b"\n")
    sys.stdout.buffer.flush()


class Agent:
    """One watcher."""

    def __init__(self, options: dict[str, Any], storage: Path | None) -> None:
        self._storage = storage
        self._kept: dict[str, str] = orjson.loads(storage.read_bytes()) if storage and storage.exists() else {}
        self._tokens: list[str] = options.get("tokens", [])
        self._watcher = ledgerwire.Watcher(
            options["url"],
            token=self._token if self._tokens else None,
            timing=Timing(**options.get("timing", {})),
        )
        self._unknown_answers = options.get("unknownAnswers", 5)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def open(self) -> None:
        await self._watcher.__aenter__()
        self._tasks["connection"] = asyncio.create_task(self._tell_connection())

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._watcher.__aexit__(None, None, None)

    async def act(self, command: dict[str, Any]) -> None:
        task_id = command.get("task_id", "")
        match command["do"]:
            case "watch":
                self._tasks[task_id] = asyncio.create_task(self._watch(task_id, command))
            case "leave":
                self._tasks[task_id].cancel()
            case "cancel":
                self._tasks[f"cancel of {task_id}"] = asyncio.create_task(self._cancel(task_id, command.get("reason")))

    def _token(self) -> str:
        return self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]

    async def _watch(self, task_id: str, command: dict[str, Any]) -> None:
        after = command.get("after")
        cursor = Cursor(after["epoch"], after["seq"]) if after else None
        if cursor is None and task_id in self._kept:
            cursor = Cursor.parse(self._kept[task_id])
        wait_ms = command.get("wait_ms")
        changes = self._watcher.subscribe(
            task_id,
            after=cursor,
            wait_seconds=None if wait_ms is None else wait_ms / 1_000,
            unknown_answers=self._unknown_answers,
            on_liveness=self._tell_liveness,
        )
        try:
            async with contextlib.aclosing(changes):
                async for change in changes:
                    self._show(change)
        except ledgerwire.UnknownTask:
            tell(unknown=task_id)
        except ledgerwire.Refused as error:
            tell(refused=error.reason)
        except ledgerwire.LedgerwireError as error:
            tell(failed=type(error).__name__, task_id=task_id, errMsg=str(error))

    def _show(self, change: Change) -> None:
        event: dict[str, Any] = {
            "change": "transition",
            "task_id": change.task_id,
            "seq": change.seq,
            "status": change.status,
            "progress": change.progress,
        }
        if isinstance(change, Snapshot):
            event["change"] = "snapshot"
        elif isinstance(change, Jumped):
            origin = change.origin
            event |= {
                "change": "jumped",
                "reason": change.reason,
                "from": None if origin is None else {"epoch": origin.epoch, "seq": origin.seq},
                "to": {"epoch": change.cursor.epoch, "seq": change.cursor.seq},
            }
        tell(**event)
        self._kept[change.task_id] = str(change.cursor)
        if self._storage is not None:
            self._storage.write_bytes(orjson.dumps(self._kept))

    async def _cancel(self, task_id: str, reason: str | None) -> None:
        try:
            receipt = await self._watcher.cancel(task_id, reason=reason)
        except ledgerwire.LedgerwireError as error:
            tell(failed=type(error).__name__, task_id=task_id, errMsg=str(error))
            return
        stage = None if receipt.cancel is None else receipt.cancel.stage
        tell(receipt=stage, task_id=task_id, status=receipt.status)

    def _tell_liveness(self, worker: WorkerLiveness) -> None:
        tell(liveness=worker.liveness, task_id=worker.task_id)

    async def _tell_connection(self) -> None:
        watcher, degraded, state = self._watcher, False, ""
        while True:
            await asyncio.sleep(CONNECTION_EVERY_SECONDS)
            if watcher.degraded is not degraded:
                degraded = watcher.degraded
                tell(degraded=degraded)
            now = "online" if watcher.connected else "polling" if watcher.polling else "connecting"
            if now != state:
                state = now
                tell(state=state)


async def follow() -> None:
    """Until there are no more commands."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    agent: Agent | None = None
    async for line in reader:
        command = orjson.loads(line)
        if command["do"] in {"start", "close"} and agent is not None:
            await agent.close()
            agent = None
        if command["do"] == "start":
            storage = command.get("storage")
            agent = Agent(command["options"], None if storage is None else Path(storage))
            await agent.open()
        elif agent is not None:
            await agent.act(command)
        if "ask" in command:
            tell(answer=command["ask"])


if __name__ == "__main__":
    asyncio.run(follow())
