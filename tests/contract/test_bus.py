"""What every bus keeps, whatever carries it. A new adapter is one more line in `BUSES`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from gateway.bus.local import LocalBus
from gateway.bus.port import Bus, Hint

BUSES: dict[str, Callable[[], Bus]] = {"local": LocalBus}


@pytest.fixture(params=BUSES)
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bus, list[Hint]]]:
    made, heard = BUSES[request.param](), list[Hint]()
    await made.start(heard.append)
    yield made, heard
    await made.close()


async def test_a_node_is_not_told_of_its_own_commits(bus: tuple[Bus, list[Hint]]) -> None:
    """What a node announces it knows already; it does not come back to it, and the call returns at once."""
    carrier, heard = bus
    carrier.announce([Hint(f"{1:032x}", 1), Hint(f"{2:032x}", 7)])
    carrier.announce([])
    assert heard == []


async def test_closing_twice_is_harmless(bus: tuple[Bus, list[Hint]]) -> None:
    """A stop that is interrupted may be repeated."""
    carrier, _ = bus
    await carrier.close()
    await carrier.close()
