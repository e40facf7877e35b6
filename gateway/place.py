"""The place of this process among several: what its supervisor has told it, and what it tells its supervisor.

The supervisor names the place in an environment variable, and listens at the other end of a pipe. A process without
a supervisor has no place.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final, Self

import msgspec

from ledger.errors import SettingsError

VARIABLE: Final = "LEDGERWIRE_PLACE"
SIGN_SECONDS: Final = 1.0
"""Between two words of a process that serves: its signs of life."""


class Word(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a process says: that it is ready, or why it ends and with which exit status."""

    ready: bool = False
    status: int = 0
    sentence: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One of several processes that listen on the same port."""

    number: int
    """From 1; a process that is started in place of another has the same."""
    pipe: int
    """The file descriptor that leads to the supervisor."""
    folder: str
    """Where the processes find each other's sockets."""

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Self | None:
        """Read what the supervisor has set, once: it is not for processes that this one starts."""
        text = environment.pop(VARIABLE, None)
        if text is None:
            return None
        try:
            place = msgspec.json.decode(text, type=cls)
            os.set_inheritable(place.pipe, False)
            os.set_blocking(place.pipe, False)  # nobody reads what is said to a supervisor that is stopped
        except (msgspec.DecodeError, OSError) as error:
            raise SettingsError(f"{VARIABLE} is for `serve --workers` alone; unset it.") from error
        return place

    def say(self, word: Word) -> None:
        """Tell the supervisor; it may be gone, and this process soon."""
        try:
            os.write(self.pipe, msgspec.json.encode(word) + b"\n")
        except OSError:
            pass
