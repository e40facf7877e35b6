"""A worker to be killed: opens one attempt of each task, then posts, and prints each report when `post` has returned.

    journalling_worker.py URL JOURNAL TASKS SEED

With TASKS = 0 it only sends what the journal has, and ends. Prints `begun` when its attempts are open.
"""

from __future__ import annotations

import asyncio
import random
import sys

import ledgerwire
from ledgerwire import Timing

TIMING = Timing(reply_seconds=0.5, reconnect_floor_seconds=0.02, reconnect_ceiling_seconds=0.2, close_seconds=60.0)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(url: str, journal: str, tasks: int, seed: int) -> None:
    dice = random.Random(seed)
    async with ledgerwire.Worker(url, journal=journal, journal_bytes=1_000_000, timing=TIMING, dice=dice) as worker:
        held = [await worker.task(f"t{number}", timeout_seconds=60).__aenter__() for number in range(tasks)]
        say("begun")
        counts = dict.fromkeys(range(tasks), 0)
        while held:
            number = dice.randrange(tasks)
            counts[number] += 1
            text = f"{held[number].attempt}.{counts[number]}"
            held[number].post(message=text, data={"padding": "x" * dice.choice((1, 2_000))})
            say("posted", held[number].task_id, text)
            await asyncio.sleep(dice.choice((0.0, 0.0, 0.002)))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
