"""Who may take how much: buckets, tables of bounded size, and what one connection has of them."""

from __future__ import annotations

import random

import pytest

from gateway.limits.allowance import FRAME_BYTES, REFUSALS, REFUSALS_PER_SECOND, Allowance
from gateway.limits.bucket import BURST_SECONDS, MOST_HINT_SECONDS, Bucket
from gateway.limits.quotas import COME_AGAIN_SECONDS, Quotas
from gateway.limits.rates import LEAST_BYTES_PER_SECOND, NAMES, Limits
from gateway.limits.table import IDLE_SECONDS, Share, Table
from gateway.protocol.codec import Unreadable
from gateway.protocol.errors import RATE_LIMITED, Bye, ProtocolError
from gateway.protocol.messages import Cancel, Create, Ping, Pong, Report
from ledger.errors import SettingsError

REPORT = Report(task_id="t")


def taken(bucket: Bucket, now: float, wish: int) -> int:
    """How many of so many single things are taken."""
    return sum(bucket.take(1, now) == 0.0 for _ in range(wish))


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    """However many ask, and however long nobody asked."""
    bucket = Bucket(100)
    assert taken(bucket, 50.0, 1_000) == 100 * BURST_SECONDS
    assert taken(bucket, 50.5, 1_000) == 50
    assert taken(bucket, 51.5, 1_000) == 100
    assert taken(bucket, 9_000.0, 1_000) == 100 * BURST_SECONDS


def test_who_is_refused_finds_it_when_he_comes_as_he_was_told() -> None:
    """The hints are as far apart as the rate, and none is longer than a client waits."""
    bucket = Bucket(10)
    assert taken(bucket, 0.0, 20) == 20
    hints = [bucket.take(1, 0.0) for _ in range(30)]
    assert hints == sorted(hints)
    assert [bucket.take(1, hint) for hint in hints] == [0.0] * 30
    assert max(bucket.take(1, 10.0) for _ in range(1_000)) == MOST_HINT_SECONDS


def test_more_than_a_burst_is_taken_when_nothing_else_was() -> None:
    """Else a large thing could never be taken at all; after it the bucket is empty for as long as it has cost."""
    bucket = Bucket(0.1)
    assert bucket.take(1, 5.0) == 0.0
    assert bucket.take(1, 14.9) > 0.0
    assert bucket.take(1, 15.0) == 0.0


def test_what_has_come_already_is_drawn_and_waited_for() -> None:
    """A debt is told in seconds."""
    bucket = Bucket(100)
    assert bucket.draw(200, 0.0) == 0.0
    assert bucket.draw(100, 0.0) == 1.0
    assert bucket.draw(0, 1.0) == 0.0


def test_nothing_a_second_means_no_bound() -> None:
    """For both ways to take."""
    bucket = Bucket(0, burst=1)
    assert bucket.take(1e12, 0.0) == bucket.draw(1e12, 0.0) == 0.0


def test_a_burst_of_its_own() -> None:
    """Where a rate says nothing about how much comes at once."""
    assert taken(Bucket(1, burst=50), 0.0, 100) == 50


def test_a_table_keeps_what_is_held_and_forgets_the_rest() -> None:
    """In the order in which they were met, when there are too many, and after a while."""
    table = Table(Share, most_idle=3)
    held = table.hold("held")
    assert table.hold("held") is table.of("held", 0.0) is held
    assert held.holds == 2
    idle = {name: table.of(name, 0.0) for name in ("a", "b", "c")}
    assert table.of("a", 0.0) is idle["a"]
    table.of("d", 0.0)
    assert len(table) == 4
    assert table.of("a", 0.0) is idle["a"]
    assert table.of("b", 0.0) is not idle["b"], "it was the one met longest ago"
    table.release("held", 1.0)
    table.release("held", 1.0)
    assert table.of("held", 1.0) is held, "who comes again has what it had"
    assert table.hold("held") is held
    table.of("late", IDLE_SECONDS + 0.5)
    assert len(table) == 2


def of(quotas: Quotas, address: str | None = None) -> Allowance:
    return Allowance(quotas, address, 0.0)


def refused(quotas: Quotas, address: str) -> int:
    """In how many milliseconds an address is to come again."""
    with pytest.raises(ProtocolError) as error:
        Allowance(quotas, address, 0.0)
    assert error.value.code == "rate_limited"
    assert error.value.retry_after_ms is not None
    return error.value.retry_after_ms


def joined(quotas: Quotas, subject: str = "s", tenant: str = "t") -> Allowance:
    allowance = of(quotas)
    assert allowance.join(tenant, subject) is None
    return allowance


def test_an_address_has_so_many_connections() -> None:
    """The next is refused, until one has gone; another address is another one, and so is none."""
    quotas = Quotas(Limits(address_connections=2), anonymous=False)
    first, _ = of(quotas, "a"), of(quotas, "a")
    assert refused(quotas, "a") == COME_AGAIN_SECONDS * 1000
    for other in ("b", None, None, None):
        of(quotas, other)
    first.close(0.0)
    first.close(0.0)
    of(quotas, "a")
    refused(quotas, "a")
    assert quotas.limited == dict.fromkeys(NAMES, 0) | {"address_connections": 2}


def test_an_address_has_so_many_that_have_not_been_welcomed() -> None:
    """One that was, or has gone, makes room."""
    quotas = Quotas(Limits(address_opening=2), anonymous=False)
    first, second = of(quotas, "a"), of(quotas, "a")
    refused(quotas, "a")
    first.join("t", "s")
    third = of(quotas, "a")
    refused(quotas, "a")
    second.close(0.0)
    first.close(0.0)
    of(quotas, "a")
    third.close(0.0)
    of(quotas, "a")
    assert quotas.limited["address_opening"] == 2


def test_an_address_opens_so_many_a_second() -> None:
    """Who closes at once and comes again is counted, too."""
    quotas = Quotas(Limits(address_connects_per_second=5), anonymous=False)
    for _ in range(10):
        of(quotas, "a").close(0.0)
    assert refused(quotas, "a") == 200
    of(quotas, "b")
    assert quotas.limited["address_connects"] == 1


def test_a_principal_and_a_tenant_have_so_many_connections() -> None:
    """One too many is told goodbye; the same name in another tenant is somebody else."""
    quotas = Quotas(Limits(principal_connections=2, tenant_connections=3), anonymous=False)
    first, _ = joined(quotas), joined(quotas)
    assert first.join("t", "s") is None, "it is there already"
    late = of(quotas)
    bye = late.join("t", "s")
    assert bye is not None
    assert (bye.code, bye.retry, bye.retry_after_ms) == (RATE_LIMITED.code, True, COME_AGAIN_SECONDS * 1000)
    assert "principal" in bye.message
    late.close(0.0)
    joined(quotas, tenant="other")
    joined(quotas, "s2")
    late = of(quotas)
    bye = late.join("t", "s3")
    assert bye is not None
    assert "tenant" in bye.message
    late.close(0.0)
    first.close(0.0)
    joined(quotas)
    assert (quotas.limited["principal_connections"], quotas.limited["tenant_connections"]) == (1, 1)


def test_without_authentication_nobody_is_told_from_the_others() -> None:
    """All would be one principal."""
    quotas = Quotas(
        Limits(principal_connections=1, principal_reports_per_second=1, principal_queries_per_second=1), anonymous=True
    )
    for _ in range(5):
        joined(quotas).close(0.0)
        quotas.query("t", "s", 0.0)
        quotas.write("t", "s", 0.0)
        assert quotas.wait_to_write("t", "s", 100, 0.0) == 0.0
    assert sum(quotas.limited.values()) == 0


def charged(allowance: Allowance, wish: int, now: float = 0.0) -> tuple[int, int, Bye | None]:
    """How many of so many reports are taken and refused, before goodbye."""
    good = bad = 0
    for _ in range(wish):
        try:
            bye = allowance.charge(REPORT, now)
        except ProtocolError:
            bad += 1
        else:
            if bye is not None:
                return good, bad, bye
            good += 1
    return good, bad, None


@pytest.mark.parametrize("limit", ["reports", "principal_reports", "tenant_reports"])
def test_reports_beyond_a_rate_are_refused_and_who_goes_on_is_cut(limit: str) -> None:
    """Not at the first: who hears it may have much under way."""
    quotas = Quotas(Limits(**{f"{limit}_per_second": 10.0}), anonymous=False)
    allowance = joined(quotas)
    assert charged(allowance, 5_000) == (20, 4_980, None)
    assert charged(allowance, 5_000, now=100.0) == (20, 4_980, None)
    good, bad, bye = charged(allowance, 50_000, now=200.0)
    assert (good, bad) == (20, REFUSALS)
    assert bye is not None
    assert (bye.code, bye.retry_after_ms) == (RATE_LIMITED.code, MOST_HINT_SECONDS * 1000)
    assert quotas.limited[limit] == 2 * 4_980 + REFUSALS + 1
    assert REFUSALS_PER_SECOND * 100 > REFUSALS


def test_what_one_connection_of_a_principal_takes_is_missing_to_the_other() -> None:
    """And to its tenant; HTTP counts alike; others have their own."""
    limits = Limits(principal_reports_per_second=10, tenant_reports_per_second=20)
    quotas = Quotas(limits, anonymous=False)
    assert charged(joined(quotas), 15) == (15, 0, None)
    assert charged(joined(quotas), 4) == (4, 0, None)
    quotas.write("t", "s", 0.0)
    with pytest.raises(ProtocolError, match="this principal"):
        quotas.write("t", "s", 0.0)
    assert charged(joined(quotas, "s2"), 30) == (20, 10, None)
    assert charged(joined(quotas, "s3"), 30) == (0, 30, None), "of the tenant nothing is left"
    assert charged(joined(quotas, "s", "t2"), 20) == (20, 0, None)


def test_a_batch_is_made_to_wait() -> None:
    """For the longer of the two."""
    quotas = Quotas(Limits(principal_reports_per_second=100, tenant_reports_per_second=1_000), anonymous=False)
    assert quotas.wait_to_write("t", "s", 200, 0.0) == 0.0
    assert quotas.wait_to_write("t", "s", 50, 0.0) == 0.5
    assert (quotas.limited["principal_reports"], quotas.limited["tenant_reports"]) == (1, 0)


@pytest.mark.parametrize("owner", ["principal", "tenant"])
def test_reads_have_a_rate(owner: str) -> None:
    """One too many is refused with a time to come again."""
    quotas = Quotas(Limits(**{f"{owner}_queries_per_second": 5.0}), anonymous=False)
    for _ in range(10):
        quotas.query("t", "s", 0.0)
    with pytest.raises(ProtocolError) as error:
        quotas.query("t", "s", 0.0)
    assert (error.value.code, error.value.retry_after_ms) == ("rate_limited", 200)
    assert quotas.limited[f"{owner}_queries"] == 1


def test_other_messages_have_a_rate_too() -> None:
    """Unreadable ones count; reports, creates and cancels count as reports."""
    quotas = Quotas(Limits(messages_per_second=2), anonymous=False)
    allowance = joined(quotas)
    for message in (Pong(), Pong(), Unreadable(ProtocolError("bad_json", "?")), Pong()):
        assert allowance.charge(message, 0.0) is None
    for report in (REPORT, Create(id=1, task_id="t"), Cancel(id=1, task_id="t")):
        assert allowance.charge(report, 0.0) is None
    with pytest.raises(ProtocolError, match="messages on this connection"):
        allowance.charge(Pong(), 0.0)


def test_pings_in_words_and_in_frames_are_one_account() -> None:
    """One too many is goodbye: no honest client sends so many."""
    quotas = Quotas(Limits(pings_per_second=5), anonymous=False)
    allowance = of(quotas)
    assert [allowance.charge(Ping(), 0.0) for _ in range(5)] == [None] * 5
    assert [allowance.control(0.0) for _ in range(5)] == [None] * 5
    for bye in (allowance.control(0.0), allowance.charge(Ping(), 0.0)):
        assert bye is not None
        assert (bye.code, bye.retry_after_ms) == (RATE_LIMITED.code, 1_000)
    assert quotas.limited["pings"] == 2


def test_bytes_are_waited_for() -> None:
    """An empty frame counts as well: it is work."""
    rate = LEAST_BYTES_PER_SECOND
    quotas = Quotas(Limits(bytes_per_second=rate), anonymous=False)
    allowance = of(quotas)
    assert allowance.took(2 * rate - FRAME_BYTES, 1, 0.0) == 0.0
    assert allowance.took(0, rate // FRAME_BYTES, 0.0) == 1.0
    assert quotas.limited["bytes"] == 1


def test_limits_come_from_the_environment() -> None:
    """Each by its name; nothing set is the default."""
    assert Limits.from_environment({}) == Limits()
    given = {f"LEDGERWIRE_LIMIT_{field.upper()}": "70000" for field in Limits.__struct_fields__}
    assert Limits.from_environment(given) == Limits(**dict.fromkeys(Limits.__struct_fields__, 70_000.0))


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("REPORTS_PER_SECOND", "many", "it must be a number"),
        ("REPORTS_PER_SECOND", "-1", "it must be 0 (no bound) to 1000000000"),
        ("ADDRESS_CONNECTIONS", "nan", "it must be 0 (no bound) to 1000000000"),
        ("BYTES_PER_SECOND", "1000", "it must be 0 (no bound) or at least 65536"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(name: str, text: str, wanted: str) -> None:
    """With its variable and what it may be."""
    with pytest.raises(SettingsError) as error:
        Limits.from_environment({f"LEDGERWIRE_LIMIT_{name}": text})
    assert error.value.sentence.startswith(f"LEDGERWIRE_LIMIT_{name} is ")
    assert wanted in error.value.sentence


@pytest.mark.parametrize("per_second", [0, 0.1, 3, 100])
def test_a_bucket_says_beforehand_whether_it_will_give(per_second: float) -> None:
    """And gives nothing by saying so."""
    bucket, dice = Bucket(per_second), random.Random(7)
    now, answers = 0.0, set[bool]()
    for _ in range(500):
        now += dice.choice([0.0, 0.01, 0.3])
        amount = dice.choice([1, 2, 50])
        would = bucket.has(amount, now)
        answers.add(would)
        assert would is (bucket.take(amount, now) == 0.0)
    assert answers == ({True} if not per_second else {True, False})


@pytest.mark.parametrize(
    "limits",
    [
        Limits(address_connections=3, address_opening=0, address_connects_per_second=0),
        Limits(address_connections=0, address_opening=2, address_connects_per_second=0),
        Limits(address_connections=0, address_opening=0, address_connects_per_second=2),
    ],
)
def test_whether_one_more_may_enter_is_said_beforehand(limits: Limits) -> None:
    """For any address, known or not, and without counting anything."""
    quotas, dice = Quotas(limits, anonymous=True), random.Random(7)
    inside: list[Allowance] = []
    now, answers = 0.0, set[bool]()
    for _ in range(500):
        now += 0.1
        address = dice.choice([None, "a", "b"])
        would, counted = quotas.would_enter(address, now), dict(quotas.limited)
        assert quotas.limited == counted
        answers.add(would)
        try:
            inside.append(Allowance(quotas, address, now))
        except ProtocolError:
            assert not would
        else:
            assert would
        if len(inside) > 6:
            inside.pop(dice.randrange(len(inside))).close(now)
    assert answers == {True, False}
