"""How long a running gateway takes to say "unknown" of a task that is somebody else's, and of one that is not there.

    python scripts/timing.py --server TOKEN --user TOKEN [--url http://127.0.0.1:8080] [--tries 2000]

`--server` may create tasks, `--user` may watch and cancel its own only. Prints medians and quartiles, by turns, so that
whatever else the machine does weighs on both. Judges nothing: noise is for the reader to see.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
from typing import Final

import aiohttp

ASKED: Final = (
    ("GET", "/v1/tasks/{}"),
    ("GET", "/v1/tasks/{}/transitions"),
    ("GET", "/v1/poll?ids={}"),
    ("POST", "/v1/tasks/{}/cancel"),
)


async def measure(url: str, server: str, user: str, tries: int) -> None:
    """Make a task that is not the user's, then ask for it and for nothing by turns."""
    there, nowhere = (f"timing-{secrets.token_hex(8)}" for _ in range(2))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        made = {"task_id": there, "owner": "somebody-else", "kind": "timing"}
        headers = {"Authorization": f"Bearer {server}"}
        async with session.post(f"{url}/v1/tasks", json=made, headers=headers) as answer:
            answer.raise_for_status()
        headers = {"Authorization": f"Bearer {user}"}
        for method, path in ASKED:
            took: dict[str, list[float]] = {there: [], nowhere: []}
            for number in range(2 * tries):
                id_ = (there, nowhere)[(number + number // 2) % 2]  # neither is always the second
                began = time.perf_counter()
                async with session.request(method, url + path.format(id_), headers=headers) as answer:
                    await answer.read()
                took[id_].append((time.perf_counter() - began) * 1e6)
            print(f"{method} {path}, {tries} tries each, microseconds")
            for name, id_ in (("foreign", there), ("missing", nowhere)):
                low, middle, high = statistics.quantiles(took[id_], n=4)
                print(f"  {name}: median {middle:.0f}, quartiles {low:.0f} and {high:.0f}")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--server", required=True, metavar="TOKEN")
    parser.add_argument("--user", required=True, metavar="TOKEN")
    parser.add_argument("--tries", type=int, default=2_000)
    options = parser.parse_args()
    asyncio.run(measure(options.url, options.server, options.user, options.tries))


if __name__ == "__main__":
    main()
