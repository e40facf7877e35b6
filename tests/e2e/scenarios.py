"""What happens to clients in the field, as steps. They are the same for every client (`platforms.py`).

| step | what happens |
|---|---|
| `report n` | a worker commits n transitions |
| `seen` | every client has been shown the newest transition |
| `end` | the task is completed, and every client is shown that |
| `hide`, `show` | the program goes to the background and comes back: a phone's, a frozen tab, a stopped process |
| `background s` | it stays there for so long; a tenth of that, as all the times of the clients are a tenth |
| `kill`, `launch` | the program is gone, and begins anew with what it had stored |
| `network x` | another network, or none |
| `break` | open connections are reset |
| `strand` | open connections are silent from now on, and nobody is told |
| `shut`, `open` | the way in refuses WebSockets, HTTP passes; and again |
| `polled` | as `seen`, for every client that can poll |
| `state x` | every client that tells its state has told this one since the last `state` |
| `gateway kill`, `start`, `roll` | SIGKILL; start; each of its processes is replaced |
| `faults {…}` | a device's habits; the other clients have none |
| `occupy n` | other sockets of the same program take n places, where there is a limit |
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Step: TypeAlias = tuple[str, Any]

JOINED: Final[list[Step]] = [("report", 3), ("state", "online"), ("seen", None)]


def background(seconds: int, **faults: object) -> list[Step]:
    """Away for so long while the work goes on."""
    away: list[Step] = [("hide", None), ("report", 2), ("background", seconds), ("report", 2), ("show", None)]
    return [("faults", faults), *JOINED, *away, ("seen", None), ("report", 1), ("seen", None), *away, ("end", None)]


SCENARIOS: Final[dict[str, list[Step]]] = {
    "background for 3 s": background(3),
    "background for 12 s, the socket lives": background(12, onSuspend="keep"),
    "background for 12 s, the socket is closed": background(12, onSuspend="close", closeCode=1006),
    "background for 12 s, the socket is gone and never says so": background(12, onSuspend="silent"),
    "killed process": [
        *JOINED, ("kill", None), ("report", 3), ("launch", None), ("seen", None),
        ("hide", None), ("kill", None), ("report", 2), ("launch", None), ("end", None),
    ],
    "network switch": [
        *JOINED, ("network", "4g"), ("report", 2), ("seen", None), ("network", "none"), ("report", 2),
        ("network", "wifi"), ("seen", None), ("faults", {"failure": "error"}), ("network", "5g"), ("end", None),
    ],
    "silent half-open socket": [
        *JOINED, ("strand", None), ("report", 2), ("seen", None), ("strand", None), ("end", None),
    ],
    "error and close of one failure, and both late": [
        ("faults", {"failure": "error and close", "lateMs": 30}), *JOINED, ("break", None), ("report", 1),
        ("seen", None), ("break", None), ("report", 1), ("seen", None), ("break", None), ("end", None),
    ],
    "close events that never come": [
        ("faults", {"loseClose": True, "failure": "close"}), *JOINED, ("break", None), ("report", 1), ("seen", None),
        ("strand", None), ("report", 1), ("seen", None), ("end", None),
    ],
    "a device with two sockets": [
        ("faults", {"sockets": 2}), ("occupy", 1), *JOINED, ("break", None), ("report", 1), ("seen", None),
        ("hide", None), ("background", 12), ("show", None), ("report", 1), ("seen", None), ("occupy", 0), ("end", None),
    ],
    "a device whose sockets are all taken": [
        ("faults", {"sockets": 5}), ("occupy", 4), *JOINED, ("faults", {"sockets": 4}), ("break", None), ("report", 2),
        ("polled", None), ("faults", {"sockets": 5}), ("report", 1), ("seen", None), ("occupy", 0), ("end", None),
    ],
    "no socket for a time: polling, and back": [
        *JOINED, ("shut", None), ("break", None), ("state", "polling"), ("report", 2),
        ("polled", None), ("open", None), ("state", "online"), ("report", 1), ("seen", None), ("end", None),
    ],
}  # fmt: skip
"""Against a gateway that stays."""

GATEWAY: Final[dict[str, list[Step]]] = {
    "gateway killed": [
        *JOINED, ("gateway", "kill"), ("gateway", "start"), ("report", 2), ("seen", None), ("hide", None),
        ("gateway", "kill"), ("gateway", "start"), ("report", 1), ("show", None), ("end", None),
    ],
    "rolling restart": [
        *JOINED, ("gateway", "roll"), ("report", 2), ("seen", None), ("gateway", "roll"), ("end", None),
    ],
}  # fmt: skip
"""Against one of two processes."""
