"""One client's conversation, case by case: its opening, its replies, its clock and its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.limits.allowance import Allowance
from gateway.limits.quotas import Quotas
from gateway.limits.rates import Limits
from gateway.protocol.budget import Budget
from gateway.protocol.effects import Authenticate, Beats, Close, Effect, Read, Send, Submit, Want, Watch
from gateway.protocol.errors import (
    EPOCH_CHANGED,
    HELLO_TIMEOUT,
    PING_TIMEOUT,
    PROTOCOL_ERROR,
    SHUTTING_DOWN,
    UNAUTHENTICATED,
    ProtocolError,
)
from gateway.protocol.messages import Cursor
from gateway.protocol.session import MESSAGES_BEFORE_HELLO, UNREADABLE_FRAMES, Session
from ledger.machine import CancelStage, Status
from ledger.model import Cancel, CancelRequest, Create, Receipt, Rejection, Report, task_key
from tests.property.paper_gateway import PaperTasks
from tests.support.principals import somebody

START = 1_000.0
HELLO = '{"type":"hello","v":1}'


def session(*, phase: float = 0.0, budget: Budget | None = None) -> Session:
    """A connection that has just been made; a ping is due every 10 s."""
    return Session(
        session_id="s-1", epoch="e-1", ping_interval_seconds=10.0, ping_phase=phase,
        server_time=datetime(2026, 1, 1, tzinfo=UTC), now=START, budget=budget,
    )  # fmt: skip


def opened() -> Session:
    """A connection after welcome."""
    made = session()
    assert hear(made, HELLO) == [Authenticate(None)]
    assert len(made.authenticated(somebody("tenant", "me"), now=0.0)) == 1
    return made


def said(effects: Sequence[Effect]) -> list[dict[str, Any]]:
    """The frames in effects."""
    return [json.loads(effect.frame) for effect in effects if isinstance(effect, Send)]


def hear(of: Session, frame: str, now: float = START) -> list[Effect]:
    """A frame that asks for nobody's identity, or for nothing behind that."""
    return list(of.receive(frame, now))


def ask(of: Session, **message: Any) -> list[Effect]:
    """Send one message."""
    return hear(of, json.dumps(message))


def test_hello_is_answered_with_welcome() -> None:
    """After the token was looked up; with the limits of this server."""
    made = session()
    assert ask(made, type="hello", v=1, token="secret", client="tests/1") == [Authenticate("secret")]
    assert made.client == "tests/1"
    assert made.authenticated(somebody("tenant", "me"), now=0.0) == [
        Send(
            b'{"type":"welcome","v":1,"session":"s-1","epoch":"e-1","ping_interval_ms":10000,'
            b'"server_time":"2026-01-01T00:00:00Z","limits":{"frame_bytes":65536,"data_bytes":16384,'
            b'"result_bytes":32768,"messages_per_frame":500,"subscriptions":1000}}'
        )
    ]


def test_before_welcome_only_signs_of_life_are_answered() -> None:
    """Everything else is refused, each with its own id."""
    made = session()
    (refused,) = said(ask(made, type="subscribe", id=7, tasks=[{"task_id": "a"}]))
    assert (refused["id"], refused["error"]["code"]) == (7, "hello_required")
    assert said(ask(made, type="ping")) == [{"type": "pong"}]
    assert ask(made, type="pong") == []
    assert made.notice("degraded") == []


def test_somebody_unknown_gets_few_answers() -> None:
    """Twenty, of whatever sort; hello is none of them. After welcome there is no such bound."""
    made = session()
    for n in range(MESSAGES_BEFORE_HELLO):
        assert len(said(ask(made, type="ping") if n % 2 else ask(made, type="unsubscribe", id=n, task_ids=["a"]))) == 1
    bye, close = ask(made, type="pong")
    assert (said([bye])[0]["code"], close) == (4503, Close(PROTOCOL_ERROR))
    made = opened()
    assert len([effect for _ in range(3 * MESSAGES_BEFORE_HELLO) for effect in ask(made, type="ping")]) == 60


def test_hello_is_said_once() -> None:
    """Another one is refused, in the same frame or later, and changes nothing."""
    made = session()
    effects = made.receive(f'[{HELLO},{HELLO},{{"type":"ping"}}]', START)
    assert next(effects) == Authenticate(None)
    made.authenticated(somebody("tenant", "me"), now=0.0)
    again, pong = said([*effects])
    assert (again["error"]["code"], pong) == ("bad_request", {"type": "pong"})
    assert said(hear(made, HELLO))[0]["error"]["code"] == "bad_request"


def test_hello_and_what_follows_it_may_come_in_one_frame() -> None:
    """What follows is looked at when it is known who asks; when that is nobody, not at all."""
    frame = f'[{HELLO},{{"type":"subscribe","id":1,"tasks":[{{"task_id":"a"}}]}}]'
    made = session()
    effects = made.receive(frame, START)
    assert next(effects) == Authenticate(None)
    made.authenticated(somebody("tenant", "me"), now=0.0)
    assert [*effects] == [Send(b'{"type":"reply","id":1,"ok":true}'), Watch(task_key("tenant", "a"))]
    made = session()
    effects = made.receive(frame, START)
    assert next(effects) == Authenticate(None)
    made.refused(ProtocolError("unauthenticated", "No."))
    assert [*effects] == []


def test_another_version_is_turned_away() -> None:
    """In words, and with a code that says not to come back."""
    bye, close = hear(session(), '{"type":"hello","v":2}')
    assert said([bye])[0]["reason"] == "unsupported_version"
    assert isinstance(close, Close)


def test_a_token_that_is_not_valid_ends_the_connection() -> None:
    """A refresh that is not valid does not."""
    made = session()
    hear(made, HELLO)
    bye, close = made.refused(ProtocolError("unauthenticated", "No."))
    assert (said([bye])[0]["code"], close) == (4501, Close(UNAUTHENTICATED))
    made = opened()
    assert ask(made, type="refresh", id=1, token="new") == [Authenticate("new", refresh=1)]
    (refused,) = said(made.refused(ProtocolError("unauthenticated", "No."), refresh=1))
    assert (refused["id"], refused["error"]["code"], made.closed) == (1, "unauthenticated", False)


def test_a_refresh_must_be_of_the_same_principal() -> None:
    """Another tenant or subject opens another connection."""
    made = opened()
    assert said(made.authenticated(somebody("tenant", "me"), now=0.0, refresh="r")) == [
        {"type": "reply", "id": "r", "ok": True}
    ]
    for tenant, subject in (("tenant", "you"), ("other", "me")):
        (refused,) = said(made.authenticated(somebody(tenant, subject), now=0.0, refresh="r"))
        assert refused["error"]["code"] == "forbidden"


def test_what_is_for_the_ledger_is_submitted_with_its_id() -> None:
    """In the order of the frame; what cannot be meant is refused and does not hold up the rest."""
    made = opened()
    one, two, refused, three = hear(
        made,
        '[{"type":"create","id":1,"task_id":"a"},{"type":"report","task_id":"a"},'
        '{"type":"report","id":3,"task_id":"/"},{"type":"cancel","id":"x","task_id":"a"}]',
    )
    assert isinstance(one, Submit)
    assert isinstance(two, Submit)
    assert isinstance(three, Submit)
    assert [type(each.request) for each in (one, two, three)] == [Create, Report, CancelRequest]
    assert [each.id for each in (one, two, three)] == [1, None, "x"]
    assert {each.request.tenant for each in (one, two, three)} == {"tenant"}
    assert said([refused])[0]["error"]["code"] == "bad_task_id"


def test_the_ledgers_answers_become_replies() -> None:
    """A receipt, a rejection, a failure; without an id only what went wrong is told."""
    made = opened()
    cancel = Cancel(stage=CancelStage.RECORDED, seq=1, reason=None)
    receipt = Receipt(task_id="a", seq=2, status=Status.CANCELLING, attempt=1, repeat=False, cancel=cancel)
    (reply,) = said(made.settled(5, receipt))
    assert (reply["id"], reply["ok"], reply["seq"], reply["cancel"]["stage"]) == (5, True, 2, "recorded")
    assert made.settled(None, receipt) == []
    (refused,) = said(made.settled(None, Rejection(code="fenced", message="Stop.")))
    assert refused["error"] == {"code": "fenced", "message": "Stop.", "retryable": False}
    (failed,) = said(made.settled("x", ProtocolError("unavailable", "Later.", retry_after_ms=9)))
    assert failed["error"]["retry_after_ms"] == 9


def test_beats_go_by_the_keys_of_their_tasks() -> None:
    """Without a reply; a bad task id is told, with no id to answer to."""
    made = opened()
    held: list[Any] = ["a", {"task_id": "b", "attempt": 3}, {"task_id": "c"}]
    keys = [task_key("tenant", task_id) for task_id in "abc"]
    assert ask(made, type="beat", task_ids=held) == [
        Beats([(keys[0], None, None), (keys[1], 3, None), (keys[2], None, None)])
    ]
    (refused,) = said(ask(made, type="beat", task_ids=["a", "/"]))
    assert (refused["id"], refused["error"]["code"]) == (None, "bad_task_id")


def test_a_subscribe_with_one_bad_task_id_subscribes_nothing() -> None:
    """All or nothing, for an attend too."""
    made = opened()
    for message in (
        {"type": "subscribe", "id": 1, "tasks": [{"task_id": "a"}, {"task_id": "/"}]},
        {"type": "attend", "id": 1, "task_ids": ["a", "/"]},
    ):
        (refused,) = said(ask(made, **message))
        assert refused["error"]["code"] == "bad_task_id"
    assert made.subscriptions.task_keys() == set()


def test_so_many_subscriptions_and_not_one_more() -> None:
    """1,000 a connection, clients' and workers' together; what is begun anew takes no more room."""
    made = opened()
    many = [f"t-{n}" for n in range(999)]
    assert len(ask(made, type="subscribe", id=1, tasks=[{"task_id": task_id} for task_id in many])) == 1_000
    assert isinstance(ask(made, type="attend", id=2, task_ids=["a"])[1], Watch)
    assert said(ask(made, type="subscribe", id=2, tasks=[{"task_id": many[0]}]))[0]["ok"] is True
    assert said(ask(made, type="attend", id=2, task_ids=["a"]))[0]["ok"] is True
    (refused,) = said(ask(made, type="attend", id=3, task_ids=["b"]))
    assert refused["error"]["code"] == "too_many_subscriptions"
    ask(made, type="unsubscribe", id=4, task_ids=many[:1])
    assert said(ask(made, type="subscribe", id=5, tasks=[{"task_id": "c"}]))[0]["ok"] is True


def test_each_task_of_a_subscribe_may_wait_for_its_own_time() -> None:
    """Else for that of the whole; zero is not to wait."""
    made = opened()
    tasks = [{"task_id": "a"}, {"task_id": "b", "wait_ms": 3_000}, {"task_id": "c", "wait_ms": 0}]
    ask(made, type="subscribe", id=1, wait_ms=2_000, tasks=tasks)
    assert made.subscriptions.next_wait() == START + 2
    wants = made.subscriptions.due_reads()
    verdicts = said(made.read([Read(want=want, head=None) for want in wants]))
    assert [(one["task_id"], one["waiting"]) for one in verdicts] == [("a", True), ("b", True), ("c", False)]
    assert [one["task_id"] for one in said(made.tick(START + 2))] == ["a"]
    assert [one["task_id"] for one in said(made.tick(START + 3))] == ["b"]


def test_a_peer_that_cannot_speak_is_subscribed() -> None:
    """After it was identified, which is for the caller to see to."""
    with pytest.raises(AssertionError, match="before authenticated"):
        session().watch_one("a", None)
    made = session()
    made.authenticated(somebody("tenant", "me"), now=0.0)
    assert made.watch_one("a", Cursor("e-1", 2)) == [Watch(task_key("tenant", "a"))]
    assert made.subscriptions.due_reads() == [Want((task_key("tenant", "a"), False), 2)]


def test_too_many_unreadable_frames_end_the_connection() -> None:
    """Fifty; a message with a mistake is a slip and does not count. What stands behind is not read."""
    made = opened()
    for _ in range(2 * UNREADABLE_FRAMES):
        assert len(ask(made, type="report")) == 1
    for _ in range(UNREADABLE_FRAMES - 1):
        assert len(hear(made, "{")) == 1
    refusal, bye, close = hear(made, '[{"type":"dance","id":1},{"type":"ping"}]')
    assert [one["type"] for one in said([refusal, bye])] == ["reply", "bye"]
    assert close == Close(PROTOCOL_ERROR)


def test_after_goodbye_nothing_is_said() -> None:
    """Whatever still comes back: answers, tokens, events, reads, time, frames."""
    tasks = PaperTasks()
    tasks.commit(Report(tenant="tenant", task_id="a"))
    event = tasks.events[task_key("tenant", "a")][0]
    made = opened()
    ask(made, type="subscribe", id=1, tasks=[{"task_id": "a"}])
    wants = made.subscriptions.due_reads()
    assert len(made.end(SHUTTING_DOWN)) == 2
    assert made.closed
    receipt = Receipt(task_id="a", seq=2, status=Status.RUNNING, attempt=1, repeat=False)
    later = [
        made.end(PING_TIMEOUT), made.settled(1, receipt), made.settled(1, ProtocolError("busy", "Later.")),
        made.authenticated(somebody("tenant", "me"), now=0.0),
        made.authenticated(somebody("tenant", "me"), now=0.0, refresh=1),
        made.refused(ProtocolError("unauthenticated", "No.")),
        made.refused(ProtocolError("unauthenticated", "No."), refresh=1), made.deliver([event]),
        made.read(tasks.answer(wants, {}, 10)), made.notice("restored"), made.tick(START + 900),
        made.unreadable(ProtocolError("bad_json", "?")), hear(made, '{"type":"ping"}'),
    ]  # fmt: skip
    assert [effects for effects in later if effects] == []
    assert len(later) == 13


def test_a_closed_session_wants_no_reads() -> None:
    """There is nobody to read for."""
    made = opened()
    ask(made, type="subscribe", id=1, tasks=[{"task_id": "a"}])
    assert made.has_due_reads
    made.end(SHUTTING_DOWN)
    assert not made.has_due_reads


def test_hello_must_come_within_five_seconds() -> None:
    """Other frames do not help."""
    made = session()
    ask(made, type="ping")
    assert made.next_tick() == START + 5
    assert made.tick(START + 4.9) == []
    bye, close = made.tick(START + 5)
    assert (said([bye])[0]["code"], close) == (4003, Close(HELLO_TIMEOUT))


def test_a_welcome_in_time_ends_the_wait_for_hello() -> None:
    """From then on the pings count."""
    made = opened()
    assert made.next_tick() == START + 5
    assert said(made.tick(START + 5)) == [{"type": "ping"}]
    assert made.next_tick() == START + 15


@pytest.mark.parametrize(("phase", "first"), [(0.0, 5.0), (0.5, 7.5), (1.0, 10.0)])
def test_the_first_ping_comes_at_its_phase_and_the_others_behind_it(phase: float, first: float) -> None:
    """So that the pings of many sessions do not coincide."""
    made = session(phase=phase)
    made.authenticated(somebody("tenant", "me"), now=0.0)
    pings = []
    now = START
    while now < START + 60:
        made.heard(now)
        now = made.next_tick()
        pings += [now] * len(made.tick(now))
    assert pings == [START + first + 10 * n for n in range(len(pings))]
    assert len(pings) >= 6


def test_a_silent_peer_is_given_up_after_one_and_a_half_intervals() -> None:
    """Any frame is a sign of life, readable or not; so is what the transport knows."""
    made = opened()
    hear(made, "nonsense", START + 3)
    assert said(made.tick(START + 15)) == [{"type": "ping"}]
    made.heard(START + 16)
    assert said(made.tick(START + 30)) == [{"type": "ping"}]
    bye, close = made.tick(START + 31)
    assert (said([bye])[0]["code"], close) == (4001, Close(PING_TIMEOUT))


@pytest.mark.parametrize("interval", [0.1, 1.1, 7.7, 25.0])
def test_the_moment_that_is_named_is_the_moment_when_something_is_done(interval: float) -> None:
    """To the last bit of the clock: a timer set to it does not come too early."""
    checked = 0
    for n in range(200):
        made = Session(
            session_id="s", epoch="e", ping_interval_seconds=interval, ping_phase=0.3,
            server_time=datetime(2026, 1, 1, tzinfo=UTC), now=START,
        )  # fmt: skip
        made.authenticated(somebody("tenant", "me"), now=0.0)
        heard_at = START + n / 7
        made.heard(heard_at)
        while not made.closed:
            now = made.next_tick()
            assert made.tick(now) != []
            checked += 1
        assert made.is_dead(silent_since=heard_at, now=now)
    assert checked >= 400


def limited(**limits: float) -> tuple[Session, Quotas]:
    """A connection after hello, and the quotas that it has a part in."""
    quotas = Quotas(Limits(**limits), anonymous=False)
    made = session(budget=Allowance(quotas, None, START))
    ask(made, type="hello", v=1)
    return made, quotas


def test_a_message_beyond_a_limit_is_refused_by_its_id() -> None:
    """Also where it is one of many in a frame; those before it have their effect."""
    made, _ = limited(reports_per_second=1)
    made.authenticated(somebody(), now=START)
    frame = json.dumps([{"type": "report", "id": n, "task_id": "t"} for n in range(3)])
    effects = hear(made, frame)
    assert [type(effect) for effect in effects] == [Submit, Submit, Send]
    (refusal,) = said(effects)
    assert (refusal["id"], refusal["error"]["code"], refusal["error"]["retryable"]) == (2, "rate_limited", True)
    assert refusal["error"]["retry_after_ms"] == 1_000


def test_who_pings_too_often_is_told_goodbye() -> None:
    """And what stands behind it in the frame is not looked at."""
    made, _ = limited(pings_per_second=1)
    made.authenticated(somebody(), now=START)
    effects = hear(made, json.dumps([{"type": "ping"}] * 5))
    assert [frame.get("reason", frame["type"]) for frame in said(effects)] == ["pong", "pong", "rate_limited"]
    assert made.closed


def test_who_has_too_many_connections_is_told_goodbye_instead_of_welcome() -> None:
    """Nothing may follow, also on behalf of a peer that cannot speak."""
    made, quotas = limited(principal_connections=1)
    Allowance(quotas, None, START).join("tenant", "me")
    assert [frame["reason"] for frame in said(made.authenticated(somebody(), now=START))] == ["rate_limited"]
    assert made.watch_one("t", None) == []
    assert made.authenticated(somebody(), now=START) == []


def test_a_notice_is_told_to_everybody_who_is_welcome() -> None:
    """`degraded` and `restored`."""
    assert said(opened().notice("degraded")) == [{"type": "notice", "kind": "degraded"}]


def test_what_has_been_sent_of_an_ended_task_ends_its_subscription() -> None:
    """When all frames have left."""
    tasks = PaperTasks()
    tasks.commit(Report(tenant="tenant", task_id="a", status=Status.COMPLETED))
    made = opened()
    ask(made, type="subscribe", id=1, tasks=[{"task_id": "a"}])
    assert len(made.read(tasks.answer(made.subscriptions.due_reads(), {}, 10))) == 2
    assert len(made.drained()) == 1
    assert made.drained() == []


def test_dropped_frames_and_failed_reads_are_read_again() -> None:
    """The session passes both on."""
    tasks = PaperTasks()
    key = task_key("tenant", "a")
    for _ in range(3):
        tasks.commit(Report(tenant="tenant", task_id="a"))
    made = opened()
    ask(made, type="subscribe", id=1, tasks=[{"task_id": "a", "after": {"epoch": "e-1", "seq": 0}}])
    wants = made.subscriptions.due_reads()
    made.read_failed(wants)
    assert made.subscriptions.due_reads() == wants
    assert len(made.read(tasks.answer(wants, {key: tasks.look(key)}, 10))) == 4
    made.rewind((key, False), 2)
    assert made.subscriptions.due_reads() == [Want((key, False), 1)]


@pytest.mark.parametrize(("phase", "retry_after_ms"), [(0.0, 0), (0.5, 1_500), (0.999, 2_997)])
def test_a_session_of_an_older_history_ends(phase: float, retry_after_ms: int) -> None:
    """The client is to come back with its cursors, not at the same moment as all others; said once."""
    made = session(phase=phase)
    effects = made.begin_anew()
    assert said(effects) == [
        {
            "type": "bye", "code": 4006, "retry": True, "retry_after_ms": retry_after_ms, "reason": "epoch_changed",
            "message": "The ledger was rewound; reconnect and show your cursor.",
        }
    ]  # fmt: skip
    assert effects[-1] == Close(replace(EPOCH_CHANGED, retry_after_ms=retry_after_ms))
    assert made.closed
    assert made.begin_anew() == []


def test_who_does_not_say_hello_gets_few_answers() -> None:
    """Pings and requests before hello are answered so many times, then the connection ends."""
    made = session()
    for _ in range(MESSAGES_BEFORE_HELLO):
        assert said(ask(made, type="ping")) == [{"type": "pong"}]
    assert ask(made, type="pong")[-1] == Close(PROTOCOL_ERROR)
    assert ask(made, type="ping") == []


@pytest.mark.parametrize("slip", ['{"type":"hello"}', '{"type":"subscribe","id":1}', "{"])
def test_slips_before_hello_are_messages_before_hello(slip: str) -> None:
    """Answered as often as others, and no more; those that go beyond a rate too."""
    made = session(budget=Allowance(Quotas(Limits(messages_per_second=1), anonymous=False), None, START))
    for _ in range(MESSAGES_BEFORE_HELLO):
        assert [one["type"] for one in said(hear(made, slip))] == ["reply"]
    assert hear(made, slip)[-1] == Close(PROTOCOL_ERROR)
