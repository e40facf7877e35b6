"""The page's protocol core on its own: happenings and times in, effects out. Runs where it lives, in the browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from scripts.stage.supervisor import Stage

pytestmark = pytest.mark.asyncio(loop_scope="module")

Effect = dict[str, Any]
Happening = tuple[int, dict[str, Any]]

PLAY = """
async ({options, happenings}) => {
    const {Stream} = await import("/stream.js");
    const stream = new Stream({taskId: "t", random: () => options.dice ?? 1, ...options});
    return happenings.map(([now, happening]) => stream.receive(happening, now));
}
"""

START: list[Happening] = [(0, {"kind": "start"}), (1, {"kind": "opened"})]
WELCOME = {"type": "welcome", "v": 1, "epoch": "e-1", "ping_interval_ms": 25_000}
GREETED: list[Happening] = [*START, (2, {"kind": "frame", "message": WELCOME})]


def frame(**message: Any) -> dict[str, Any]:
    """A frame that came in."""
    return {"kind": "frame", "message": message}


def subscribed(seq: int, **more: Any) -> dict[str, Any]:
    """The answer to a subscribe."""
    members: dict[str, Any] = {"verdict": "live", "epoch": "e-1", "seq": seq, "recovered": True}
    return frame(type="subscribed", task_id="t", **(members | more))


def transition(seq: int, status: str = "running") -> dict[str, Any]:
    """A transition of the task."""
    return frame(type="transition", task_id="t", seq=seq, status=status)


FOLLOWING: list[Happening] = [*GREETED, (3, subscribed(0))]


class Player:
    """Plays happenings to a new stream in the page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def __call__(self, *happenings: Happening, **options: Any) -> list[Effect]:
        """The effects of the last happening."""
        played = await self.page.evaluate(PLAY, {"options": options, "happenings": happenings})
        return list(played[-1])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def play(browser: Browser, stage: Stage) -> AsyncIterator[Player]:
    """Plays happenings to new streams, all in one page: a stream keeps nothing outside of itself."""
    page = await browser.new_page()
    await page.goto(stage.plan.page_url)
    yield Player(page)
    await page.close()


def sent(effects: list[Effect]) -> list[Effect]:
    """The messages among the effects."""
    return [effect["message"] for effect in effects if effect["do"] == "send"]


def told(effects: list[Effect], what: str) -> list[Effect]:
    """What the page is told of this sort."""
    return [effect for effect in effects if effect["do"] == "tell" and effect["what"] == what]


async def test_it_subscribes_from_the_first_transition_or_from_its_cursor(play: Player) -> None:
    """Without a cursor the whole history is asked for, with one exactly what comes after it."""
    (fresh,) = sent(await play(*GREETED, fresh=True))
    assert fresh["tasks"] == [{"task_id": "t", "after": {"epoch": "e-1", "seq": 0}}]
    assert fresh["wait_ms"] == 60_000
    (resumed,) = sent(await play(*GREETED, cursor={"epoch": "e-0", "seq": 7}))
    assert resumed["tasks"] == [{"task_id": "t", "after": {"epoch": "e-0", "seq": 7}}]
    assert "wait_ms" not in resumed


async def test_a_gap_is_never_shown_but_asked_for_again(play: Player) -> None:
    """What came after the hole is dropped until the new subscription has begun at the cursor."""
    effects = await play(*FOLLOWING, (4, transition(1)), (5, transition(3)))
    assert told(effects, "gap") == [{"do": "tell", "what": "gap", "expected": 2, "got": 3}]
    assert [message["type"] for message in sent(effects)] == ["unsubscribe", "subscribe"]
    assert sent(effects)[1]["tasks"][0]["after"] == {"epoch": "e-1", "seq": 1}
    deaf = [*FOLLOWING, (4, transition(1)), (5, transition(3)), (6, transition(4))]
    assert await play(*deaf) == []
    healed = await play(*deaf, (7, subscribed(4)), (8, transition(2)))
    assert told(healed, "transition")[0]["transition"]["seq"] == 2


async def test_a_repeat_is_dropped_and_counted(play: Player) -> None:
    """The page never shows a number twice."""
    effects = await play(*FOLLOWING, (4, transition(1)), (5, transition(1)))
    assert effects == [{"do": "tell", "what": "repeat", "seq": 1}]


async def test_a_ping_is_answered_with_the_frame_that_brought_it(play: Player) -> None:
    """No timer lies between ping and pong."""
    assert sent(await play(*FOLLOWING, (4, frame(type="ping")))) == [{"type": "pong"}]


async def test_silence_is_probed_and_then_given_up_on_absolute_time(play: Player) -> None:
    """After one and a half intervals it asks; without an answer in 5 s the connection counts as broken."""
    at_rest = [*FOLLOWING, (37_000, {"kind": "tick"})]
    assert await play(*at_rest) == []
    probing = [*at_rest, (38_000, {"kind": "tick"})]
    assert sent(await play(*probing)) == [{"type": "ping"}]
    assert await play(*probing, (39_000, frame(type="pong")), (43_500, {"kind": "tick"})) == []
    given_up = await play(*probing, (43_500, {"kind": "tick"}))
    assert given_up[0] == {"do": "close"}
    assert told(given_up, "state")[0]["state"] == "reconnecting"


async def test_silence_is_believed_sooner_while_the_browser_is_offline(play: Player) -> None:
    """Asked after 1 s, given up 2 s later; a connection that answers stays. "Away" counts from the last frame."""
    offline = {"kind": "tick", "offline": True}
    assert await play(*FOLLOWING, (1_000, offline)) == []
    probing = [*FOLLOWING, (1_004, offline)]
    assert sent(await play(*probing)) == [{"type": "ping"}]
    assert await play(*probing, (1_100, frame(type="pong")), (2_000, offline)) == []
    given_up = [*probing, (3_004, offline)]
    assert told(await play(*given_up), "state")[0]["state"] == "reconnecting"
    back: list[Happening] = [(9_000, {"kind": "nudge"}), (9_001, {"kind": "opened"}), (9_002, GREETED[-1][1])]
    assert told(await play(*given_up, *back, (9_003, subscribed(0))), "recovered")[0]["awayMs"] == 9_000


async def test_bye_decides_whether_and_when_to_return(play: Player) -> None:
    """`retry` false ends it in the server's words; otherwise `retry_after_ms` is kept to."""
    no = await play(*FOLLOWING, (4, frame(type="bye", code=4501, retry=False, message="Send a valid token.")))
    assert told(no, "state") == [{"do": "tell", "what": "state", "state": "refused", "sentence": "Send a valid token."}]
    later = frame(type="bye", code=4000, retry=True, retry_after_ms=700, message="The server restarts.")
    assert await play(*FOLLOWING, (4, later), (703, {"kind": "tick"})) == []
    assert (await play(*FOLLOWING, (4, later), (704, {"kind": "tick"})))[0] == {"do": "connect"}


@pytest.mark.parametrize(("code", "state"), [(1006, "reconnecting"), (4499, "reconnecting"), (4500, "refused")])
async def test_without_bye_the_close_code_decides(play: Player, code: int, state: str) -> None:
    """4500 to 4999 mean: do not come back."""
    effects = await play(*FOLLOWING, (4, {"kind": "closed", "code": code}))
    assert told(effects, "state")[0]["state"] == state


async def test_reconnects_are_spread_from_nothing_to_a_ceiling_that_doubles(play: Player) -> None:
    """Full jitter: the dice choose anywhere below 0.4, 0.8, 1.6 … and never above 5 seconds."""
    waits = await play.page.evaluate(
        """async () => {
            const {backoffMs} = await import("/stream.js");
            return [0, 1, 2, 3, 4, 60].map(attempt => [backoffMs(attempt, () => 0), backoffMs(attempt, () => 1)]);
        }"""
    )
    assert waits == [[0, 400], [0, 800], [0, 1600], [0, 3200], [0, 5000], [0, 5000]]


async def test_a_cancel_is_sent_again_until_it_is_answered(play: Player) -> None:
    """Asked for while away, sent after the next `subscribed`; lost with a connection, sent over the next one."""
    away: list[Happening] = [
        *FOLLOWING,
        (4, {"kind": "closed", "code": 1006}),
        (5, {"kind": "cancel", "reason": "why"}),
    ]
    back: list[Happening] = [
        (500, {"kind": "tick"}),
        (501, {"kind": "opened"}),
        (502, {"kind": "frame", "message": WELCOME}),
    ]
    wish = {"type": "cancel", "id": 2, "task_id": "t", "reason": "why"}
    first = [*away, *back, (503, subscribed(0))]
    assert sent(await play(*first)) == [wish]
    lost: list[Happening] = [(4, {"kind": "closed", "code": 1006}), *back]
    again = [(now + 1000, happening) for now, happening in lost]
    assert sent(await play(*first, *again, (1503, subscribed(0)))) == [wish]
    answered = frame(type="reply", id=2, ok=True, cancel={"stage": "recorded", "seq": 1, "reason": "why"})
    assert sent(await play(*first, (504, answered), *again, (1503, subscribed(0)))) == []


async def test_an_ended_task_needs_no_connection_once_all_was_seen(play: Player) -> None:
    """The connection is closed after the last missed transition, not before."""
    joined = [*GREETED, (3, subscribed(2, verdict="ended")), (4, transition(1))]
    assert {"do": "close"} not in await play(*joined)
    last = await play(*joined, (5, transition(2, "completed")))
    assert {"do": "close"} in last
    assert told(last, "state")[0]["state"] == "finished"


async def test_silence_is_told_with_the_time_of_the_last_sign_of_life(play: Player) -> None:
    """By the page's own clock; not by what is left of an earlier subscription."""
    late = frame(type="liveness", task_id="t", liveness="late", beat_age_ms=70_000)
    live = frame(type="liveness", task_id="t", liveness="live", beat_age_ms=10)
    assert await play(*FOLLOWING, (90_000, late)) == [{"do": "tell", "what": "liveness", "silentAt": 20_000}]
    assert await play(*FOLLOWING, (90_000, live)) == [{"do": "tell", "what": "liveness", "silentAt": None}]
    assert await play(*GREETED, (90_000, late)) == []
    assert await play(*FOLLOWING, (4, transition(1)), (5, transition(3)), (90_000, late)) == []
    task = {"task_id": "t", "seq": 5, "status": "running", "liveness": "late", "beat_age_ms": 1_000}
    begun = [*GREETED, (3, subscribed(5, recovered=False))]
    (shown,) = told(await play(*begun, (4_000, frame(type="snapshot", task=task))), "snapshot")
    assert shown["silentAt"] == 3_000


async def test_a_brown_out_keeps_the_connection(play: Player) -> None:
    """Once a subscribe was understood, its answer may take as long as the ledger is away."""
    understood = [*GREETED, (3, frame(type="reply", id=1, ok=True)), (4, frame(type="notice", kind="degraded"))]
    assert told(await play(*understood), "state")[0]["state"] == "degraded"
    assert await play(*understood, (30_000, {"kind": "tick"})) == []
