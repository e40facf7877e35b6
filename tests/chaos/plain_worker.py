"""A worker as small as it can be: one task, plain HTTP, standard library only. Run as a program, to be killed.

    python plain_worker.py PORT TASK_ID INTERVAL_SECONDS

It reports for ever, numbered, and prints each number once it is acknowledged. What gets no answer, or is answered as
retryable, it sends again.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import sys
import time


def main(port: int, task_id: str, interval_seconds: float) -> None:
    """Report until somebody ends this process, or the one that started it."""
    parent = os.getppid()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for n in itertools.count(1):
        body = json.dumps({"attempt": 1, "n": n, "progress": n % 100})
        while os.getppid() == parent:
            try:
                connection.request("POST", f"/v1/tasks/{task_id}/transitions", body)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
            else:
                if answer.status == 200:
                    break
                if answer.status < 500:
                    sys.exit(f"refused: {answer.status}")
            time.sleep(interval_seconds / 4)
        else:
            return
        print(n, flush=True)  # noqa: T201 - that is how it is watched
        time.sleep(interval_seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
