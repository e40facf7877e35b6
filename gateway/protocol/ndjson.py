"""A stream of bytes to lines, and gzip to bytes, piece by piece. Pure; holds one line and one window, never a body.

However the stream is cut into pieces, the lines are the same. What comes out is made only when it is asked for, so
whoever asks can stop in the middle of a piece that would inflate to a thousand times its size.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from gateway.protocol.errors import ProtocolError

PART_BYTES: Final = 64 * 1024
"""What is inflated at once: a fraction of a millisecond, and as much memory as one line may have."""
FREE_BYTES: Final = 1024 * 1024
"""A body may inflate to so much whatever its ratio: equal reports are short in gzip."""
RATIO: Final = 100
"""Beyond that, to so many times what has come. Reports of one job reach 10 to 30; a bomb has 1,000."""
MEMBERS: Final = 1_000
"""Gzip files that may be put one after the other. An empty one has 20 bytes, and each costs a new window."""

_GZIP: Final = 16 + zlib.MAX_WBITS  # zlib's way to say: a gzip header and no other


class Lines:
    """Cuts a stream at each LF. A line may have `max_bytes` without it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._begun = bytearray()  # a line without its end, never more than `max_bytes`
        self._skips = False  # what comes up to the next LF belongs to a line that was too long

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The lines that `data` completes, in order. None stands for one that is too long, as soon as that is known."""
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            if self._skips:
                self._skips = False
            elif len(self._begun) + end - begin > self._max_bytes:
                self._begun.clear()
                yield None
            else:
                line = bytes(self._begun) + data[begin:end]
                self._begun.clear()
                yield line
            begin = end + 1
        if self._skips:
            return
        if len(self._begun) + len(data) - begin > self._max_bytes:
            self._begun.clear()
            self._skips = True
            yield None
        else:
            self._begun += data[begin:]

    def end(self) -> Iterator[bytes]:
        """The last line, where the stream did not end with LF."""
        if self._begun:
            yield bytes(self._begun)
            self._begun.clear()


class Inflater:
    """Inflates gzip, also several files one after the other. Bounded: see the constants above."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._members = 1
        self._taken = 0
        self._given = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` inflates to, at most `PART_BYTES` at a time.

        Raises `ProtocolError`: `bad_request` for what is not gzip or is damaged, `request_too_large` for a bomb.
        """
        self._taken += len(data)
        while data:
            if self._member.eof:
                self._begin_member()
            yield from self._inflate(data)
            data = self._member.unused_data

    def end(self) -> None:
        """The stream is over. Raises `ProtocolError` `bad_request` when it breaks off, or was nothing at all."""
        if self._taken == 0:
            raise ProtocolError("bad_request", "The body is empty; in gzip nothing has 20 bytes too.")
        if not self._member.eof:
            raise ProtocolError("bad_request", "The gzip body breaks off; its last line is not read.")

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > MEMBERS:
            raise ProtocolError("request_too_large", f"A body may have {MEMBERS} gzip files one after the other.")
        self._member = zlib.decompressobj(_GZIP)

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        """What this member makes of `data`; the rest is its `unused_data`."""
        while True:
            try:
                part = self._member.decompress(data, PART_BYTES)
            except zlib.error as error:
                raise ProtocolError("bad_request", f"The body is not gzip, or is damaged ({error}).") from error
            # At the end of a file zlib may leave what follows it in both places.
            data = b"" if self._member.eof else self._member.unconsumed_tail
            self._given += len(part)
            read = self._taken - len(data) - len(self._member.unused_data)
            if self._given > FREE_BYTES + RATIO * read:
                raise ProtocolError(
                    "request_too_large",
                    f"The body inflates to more than {RATIO} times its size; send it in several requests or without"
                    " gzip.",
                )
            if part:
                yield part
            if self._member.eof or (not data and len(part) < PART_BYTES):
                return  # a full part may not have been all
