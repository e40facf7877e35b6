"""A client that believes nothing: it checks every frame against what it asked and against the ledger."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, Literal

from msgspec.structs import replace

from gateway.protocol import codec
from gateway.protocol.errors import BYES, ERRORS
from ledger.machine import CancelStage, Liveness
from ledger.model import task_key
from tests.property.paper_gateway import EPOCH, SILENT_MS, TENANT, PaperTasks

Json = dict[str, Any]
_BYES: Final = {bye.code: bye.reason for bye in BYES}


@dataclass(kw_only=True)
class Interest:
    """One subscription, from its reply on: what the protocol allows to come next."""

    mode: Literal["all", "latest"]
    after: tuple[str, int] | None
    waits_until: float | None
    head_then: int
    """The ledger's head when it was asked for."""
    phase: Literal["asked", "jumped", "snapshot", "waiting", "live"] = "asked"
    position: int = 0
    late: bool = False
    """What is believed of the worker."""


class PaperPeer:
    """What one client has said and seen."""

    def __init__(self, tasks: PaperTasks) -> None:
        self.tasks = tasks
        self.now = 0.0
        self.welcomed = False
        self.goodbye: int | None = None
        self.asked: dict[int | str, Json] = {}
        """Messages by id that wait for their reply."""
        self.nameless = 0
        """Messages without an id that may be refused."""
        self.pings = 0
        self.interests: dict[str, Interest] = {}
        self.attends: dict[str, int] = {}
        """Tasks attended to, with the newest cancel request told."""
        self.saw: Counter[str] = Counter()

    def says(self, message: Json) -> None:
        """A message that it sends."""
        if "id" in message:
            assert message["id"] not in self.asked
            if message["type"] == "subscribe":
                message["heads"] = [self.tasks.head(self._key(wanted["task_id"])) for wanted in message["tasks"]]
            self.asked[message["id"]] = message
        elif message["type"] == "ping":
            self.pings += 1
        else:
            self.nameless += 1

    def sees(self, frame: bytes) -> None:
        """A frame that it receives."""
        content = json.loads(frame)
        kind = content["type"]
        assert self.goodbye is None, f"after bye: {content}"
        if not self.welcomed:
            may_come = kind in {"welcome", "ping", "pong", "bye"} or (kind == "reply" and not content["ok"])
            assert may_come, f"before welcome: {content}"
        self.saw[kind] += 1
        getattr(self, f"_sees_{kind}")(content, frame)

    def _sees_welcome(self, content: Json, frame: bytes) -> None:
        assert not self.welcomed
        assert (content["v"], content["epoch"]) == (1, EPOCH)
        self.welcomed = True

    def _sees_ping(self, content: Json, frame: bytes) -> None:
        assert content == {"type": "ping"}

    def _sees_pong(self, content: Json, frame: bytes) -> None:
        assert self.pings > 0
        self.pings -= 1

    def _sees_bye(self, content: Json, frame: bytes) -> None:
        assert _BYES[content["code"]] == content["reason"]
        assert content["retry"] is (content["code"] < 4500)
        self.goodbye = content["code"]

    def _sees_reply(self, content: Json, frame: bytes) -> None:
        if not content["ok"]:
            assert content["error"]["retryable"] is ERRORS[content["error"]["code"]].retryable
        if content["id"] is None:
            assert not content["ok"]
            assert self.nameless > 0, "an answer too many"
            self.nameless -= 1
            return
        message = self.asked.pop(content["id"])  # a KeyError: answered twice, or never asked
        self.saw[f"{message['type']} {'accepted' if content['ok'] else content['error']['code']}"] += 1
        if not content["ok"]:
            return
        assert message["id"] == content["id"]
        match message["type"]:
            case "subscribe":
                for wanted, head in zip(message["tasks"], message["heads"], strict=True):
                    self._begins(message, wanted, head)
            case "unsubscribe":
                for task_id in message["task_ids"]:
                    self.interests.pop(task_id, None)
                    self.attends.pop(task_id, None)
                    self.attends.pop(task_id, None)
            case "attend":
                self.attends |= dict.fromkeys(message["task_ids"], 0)
            case "report" | "create" | "cancel":
                event = self.tasks.events[self._key(message["task_id"])][content["seq"] - 1]
                assert content["task_id"] == message["task_id"]
                if message["type"] != "cancel":
                    assert (content["status"], content["attempt"]) == (
                        event.transition.status, event.transition.attempt
                    )  # fmt: skip
            case "refresh":
                pass
            case other:
                raise AssertionError(f"{other} is not answered with ok")

    def _begins(self, message: Json, wanted: Json, head: int) -> None:
        after = wanted.get("after")
        wait_ms = wanted.get("wait_ms", message.get("wait_ms", 0))
        self.interests[wanted["task_id"]] = Interest(
            mode=message.get("mode", "all"),
            after=None if after is None else (after["epoch"], after["seq"]),
            waits_until=message["said_at"] + wait_ms / 1000 if wait_ms else None,
            head_then=head,
        )

    def _sees_subscribed(self, content: Json, frame: bytes) -> None:
        task_id, verdict, seq = content["task_id"], content["verdict"], content["seq"]
        interest = self.interests[task_id]
        assert content["epoch"] == EPOCH
        if interest.phase == "waiting":  # it did not appear in time
            assert interest.waits_until is not None
            assert self.now >= interest.waits_until
            assert (verdict, seq, content["recovered"], content["waiting"]) == ("unknown", 0, False, False)
            del self.interests[task_id]
            self.saw["gave up waiting"] += 1
            return
        assert interest.phase == "asked", "announced twice"
        assert seq <= self.tasks.head(self._key(task_id))
        after = interest.after
        cannot_continue = after is not None and (after[0] != EPOCH or after[1] > seq)
        if after is not None and after[1] > interest.head_then and not content["recovered"]:
            cannot_continue = True  # it was beyond the head, and the task has passed it since
        interest.phase = "live"
        interest.late = False
        if verdict == "unknown":
            assert seq == 0
            assert content["waiting"] is (interest.waits_until is not None)
            assert content["recovered"] is (content["waiting"] and not cannot_continue)
            if cannot_continue:
                interest.phase = "jumped"
            elif not content["waiting"]:
                del self.interests[task_id]
            else:
                interest.phase = "waiting"
            return
        assert seq > 0
        assert "waiting" not in content
        assert (verdict == "ended") is self._ended_at(task_id, seq)
        assert content["recovered"] is (after is not None and not cannot_continue)
        if content["recovered"]:
            assert after is not None
            interest.position = after[1]
        else:
            interest.phase = "jumped" if cannot_continue else "snapshot"
            interest.position = seq

    def _sees_notice(self, content: Json, frame: bytes) -> None:
        if content["kind"] in {"degraded", "restored"}:
            return
        assert content["kind"] == "jumped"
        interest = self.interests[content["task_id"]]
        assert interest.phase == "jumped"
        assert interest.after == (content["from"]["epoch"], content["from"]["seq"])
        assert content["reason"] == ("other_epoch" if interest.after[0] != EPOCH else "beyond_head")
        assert content["to"] == {"epoch": EPOCH, "seq": interest.position}
        interest.phase = "snapshot"
        if interest.position == 0:  # nobody has heard of it
            interest.phase = "waiting"
            if interest.waits_until is None:
                del self.interests[content["task_id"]]

    def _sees_snapshot(self, content: Json, frame: bytes) -> None:
        shown = content["task"]
        interest = self.interests[shown["task_id"]]
        if interest.phase == "snapshot":
            assert shown["seq"] == interest.position
        else:
            assert interest.mode == "latest"
            assert shown["seq"] > interest.position
        key = self._key(shown["task_id"])
        since = self.tasks.events[key][interest.position : shown["seq"]]
        still_late = interest.late and not any(event.shows_life for event in since)  # it may have beaten meanwhile
        interest.phase, interest.position = "live", shown["seq"]
        interest.late = shown["liveness"] == "late"
        task = self.tasks.snapshots[key][shown["seq"] - 1]
        if interest.late:
            assert still_late or shown["seq"] in self.tasks.late_at[key]
            task = replace(task, liveness=Liveness.LATE, beat_age_ms=SILENT_MS)
            self.saw["late snapshot"] += 1
        assert frame == codec.snapshot_frame(task)

    def _sees_transition(self, content: Json, frame: bytes) -> None:
        interest = self.interests[content["task_id"]]
        assert interest.phase in {"live", "waiting"}
        assert interest.mode == "all"
        assert content["seq"] == interest.position + 1, f"after {interest.position} came {content['seq']}"
        interest.phase, interest.position = "live", content["seq"]
        event = self.tasks.events[self._key(content["task_id"])][content["seq"] - 1]
        assert frame == event.frame
        interest.late = interest.late and not event.shows_life

    def _sees_liveness(self, content: Json, frame: bytes) -> None:
        interest = self.interests[content["task_id"]]
        key = self._key(content["task_id"])
        assert interest.phase == "live"
        assert self.tasks.snapshots[key][interest.position - 1].liveness is not None, "nobody is at work"
        late = {"late": True, "live": False}[content["liveness"]]
        assert late is not interest.late, "told twice"
        assert isinstance(content["beat_age_ms"], int)
        if late:
            assert interest.position in self.tasks.late_at[key], "a transition came between"
        interest.late = late
        self.saw[f"{content['liveness']} told"] += 1

    def _sees_cancel(self, content: Json, frame: bytes) -> None:
        task_id = content["task_id"]
        assert content["seq"] >= self.attends[task_id]
        self.attends[task_id] = content["seq"]
        recorded = self.tasks.events[self._key(task_id)][content["seq"] - 1].transition
        assert (recorded.cancel, recorded.reason) == (CancelStage.RECORDED, content["reason"])

    def _key(self, task_id: str) -> str:
        return task_key(TENANT, task_id)

    def _ended_at(self, task_id: str, seq: int) -> bool:
        key = self._key(task_id)
        return self.tasks.ended(key) and seq == self.tasks.head(key)
