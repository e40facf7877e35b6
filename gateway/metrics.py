"""What a node says of itself in figures. Taken when somebody asks, from the parts that have them: nothing is counted
here, and nothing is counted per frame.

No figure has a label whose values come from clients: no task, tenant, kind or subject. docs/operations.md lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct
from prometheus_client import ProcessCollector

from gateway.admission import Admission
from gateway.bus.port import Bus
from gateway.connection import Connection
from gateway.figures import Family, Sample
from gateway.http.intake import Intake
from gateway.hub import Hub
from gateway.limits.quotas import Quotas
from gateway.replay import Replays
from ledger.pool import Pools
from ledger.reaper import Reaper
from ledger.writer import Writer

KINDS: Final = ("websocket", "event_stream", "long_poll", "batch")


class Metrics(Struct, frozen=True, kw_only=True):
    """One node's parts."""

    hub: Hub
    bus: Bus
    writer: Writer
    replays: Replays
    pools: Pools
    reaper: Reaper
    admission: Admission
    quotas: Quotas
    draining: Callable[[], bool]
    version: str

    def families(self) -> list[Family]:
        """All figures of this moment."""
        return [
            *self._connections(),
            *self._writer(),
            *self._deliveries(),
            *self._pools(),
            *self._state(),
            *_bus(self.bus),
            *_process(),
        ]

    def _connections(self) -> Iterator[Family]:
        door = self.admission
        kinds: dict[str, float] = dict.fromkeys(KINDS, 0)
        kinds.update(Counter(map(_kind, self.hub.everyone)))
        yield Family.gauge("connections", "Connections that are open, by kind.", kinds, "kind")
        yield Family.gauge(
            "connections_opening", "WebSockets that were let in and have not been welcomed yet.", door.opening
        )
        yield Family.counter("connections_admitted", "WebSockets that were let in.", door.admitted)
        yield Family.counter(
            "connections_refused", "WebSockets that were refused because too many came at once.", door.refused
        )
        yield Family.counter(
            "limited", "Refusals, pauses and goodbyes because of a limit, by limit.", dict(self.quotas.limited), "limit"
        )
        yield Family.gauge("topics", "Tasks that somebody watches here.", self.hub.topics)
        yield Family.gauge("subscriptions", "Watchers of all tasks together.", self.hub.subscriptions)

    def _writer(self) -> Iterator[Family]:
        tally = self.writer.tally
        yield Family.counter(
            "transitions_committed", "Transitions that this process has committed.", tally.commit_transitions.sum
        )
        yield Family.histogram(
            "commit_transitions", "Transitions in one append, which is one commit.", tally.commit_transitions
        )
        yield Family.histogram(
            "commit_seconds", "Time from sending an append to its answer, in seconds.", tally.commit_seconds
        )
        yield Family.gauge(
            "writer_waiting_reports", "Reports that are queued or on their way to a commit.", self.writer.waiting
        )
        yield Family.counter(
            "reports_refused", "Reports, creates and cancels without an effect, by the code of the answer.",
            dict(tally.refused), "code",
        )  # fmt: skip

    def _deliveries(self) -> Iterator[Family]:
        counts = self.hub.counts
        open_bytes = sum(each.sent_bytes for each in self.hub.everyone if isinstance(each, Connection))
        yield Family.counter("deliveries", "Transitions handed to watchers, once for each.", counts.deliveries)
        yield Family.counter(
            "sent_bytes", "Bytes of frames sent to clients of WebSockets and event streams.",
            counts.sent_bytes + open_bytes,
        )  # fmt: skip
        yield Family.counter(
            "slow_consumer_cuts", "Connections that were cut because they took nothing at all.", counts.cuts
        )
        yield Family.counter(
            "slow_consumer_rewinds", "Subscriptions sent back to the ledger because their client was slow.",
            counts.rewinds,
        )  # fmt: skip
        yield Family.counter(
            "hub_rereads", "Questions to the ledger how far the watched tasks have come.", counts.rereads
        )
        yield Family.counter(
            "hub_replays", "Pages that the hub read because transitions had not come by themselves.", counts.fills
        )
        yield Family.counter("session_reads", "Pages that sessions have asked for.", counts.reads)
        yield Family.counter("ledger_reads", "Reads of the ledger for sessions, many together.", self.replays.reads)

    def _pools(self) -> Iterator[Family]:
        lanes = {lane.name: lane for lane in (self.pools.write, self.pools.read, self.pools.control)}
        status = {name: lane.status() for name, lane in lanes.items()}
        for name, help_, figures in (
            ("pool_connections_in_use", "Connections to PostgreSQL at work, by lane.",
             {lane: each["checked_out"] for lane, each in status.items()}),
            ("pool_connections_idle", "Connections to PostgreSQL that are open and idle, by lane.",
             {lane: each["checked_in"] for lane, each in status.items()}),
            ("pool_connections_max", "Connections to PostgreSQL that a lane may have.",
             {lane: each["max"] for lane, each in status.items()}),
            ("pool_waiting", "Who waits for a connection to PostgreSQL, by lane.",
             {lane: each["waiting"]["count"] for lane, each in status.items()}),
        ):  # fmt: skip
            yield Family.gauge(name, help_, figures, "lane")
        yield Family.counter(
            "pool_timeouts", "Waits for a connection to PostgreSQL that were given up, by lane.",
            {name: lane.timeouts for name, lane in lanes.items()}, "lane",
        )  # fmt: skip

    def _state(self) -> Iterator[Family]:
        yield Family.gauge("info", "1; the version is a label.", {self.version: 1}, "version")
        yield Family.gauge("draining", "Whether this process is about to end.", self.draining())
        yield Family.gauge(
            "ledger_degraded", "Whether the ledger could not be reached when it was last looked at.", self.hub.degraded
        )
        yield Family.gauge("reaper_holder", "Whether this is the process that ends tasks.", self.reaper.holds)
        yield Family.counter(
            "epoch_changes", "Times that the ledger's history was found to be another one.",
            self.hub.counts.epoch_changes,
        )  # fmt: skip


def _kind(watcher: object) -> str:
    if isinstance(watcher, Connection):
        return "event_stream" if watcher.one_way else "websocket"
    return "batch" if isinstance(watcher, Intake) else "long_poll"


def _bus(bus: Bus) -> Iterator[Family]:
    state = bus.state
    yield Family.gauge("bus_healthy", "Whether the bus can be used, by kind.", {state.kind: state.healthy}, "bus")
    yield Family.counter(
        "bus_hints", "Hints on the bus: sent, heard, dropped because too many waited, or unreadable.",
        {"sent": state.sent, "heard": state.heard, "dropped": state.dropped, "garbled": state.garbled}, "what",
    )  # fmt: skip
    yield Family.counter("bus_connects", "Times that the bus was connected.", state.connects)


def _process() -> Iterator[Family]:
    """What the kernel says of this process; the names are those that all Prometheus clients have."""
    for metric in ProcessCollector(registry=None).collect():
        samples = [
            Sample(each.name.removeprefix(metric.name), dict(each.labels), each.value) for each in metric.samples
        ]
        yield Family(metric.name, "counter" if metric.type == "counter" else "gauge", metric.documentation, samples)
