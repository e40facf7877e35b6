"""Reports on disk until they are acknowledged, so that a worker that is killed in an outage loses none.

A folder with two files: `lock`, held by the one process that uses it, and `reports`, to which a line is added for each
report and for each acknowledgement. A report is fsynced before `append` returns. An acknowledgement is not: lost, it
makes a report be sent again under its old number, which has no second effect.

    line    = crc32 of the rest, in hex, a space, and one JSON object
    report  = {"id", "task_id", "attempt", "n", "terminal", "body"}
    settled = {"settled": [id, …]}

The file never grows beyond `max_bytes`: before it would, it is written anew with the reports that are still open, and
replaced at once (rename). A line that was cut off by the end of a process or machine is cut away at the next start.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import orjson

from ledgerwire.errors import JournalError, QueueFull

_log = logging.getLogger("ledgerwire")

MAX_BYTES: Final = 16_777_216
MIN_BYTES: Final = 262_144
"""Room for the two largest reports there are, twice."""
_RESERVED: Final = 4
"""One part in so many is kept for ends of tasks and answers to cancels, which must always find room."""
_OWNER_ONLY: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One report that is not acknowledged, as far as the journal knows."""

    id: int
    task_id: str
    attempt: int
    n: int
    terminal: bool
    body: dict[str, Any]


class Journal:
    """The journal in a folder; `open` it first. All calls are short, block, and come from one thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if max_bytes < MIN_BYTES:
            sentence = f"a journal needs {MIN_BYTES:,} bytes at least"
            raise ValueError(sentence)
        self._folder = folder
        self._path = folder / "reports"
        self._max_bytes = max_bytes
        self._lock = -1
        self._file = -1
        self._bytes = 0
        self._lines: dict[int, bytes] = {}
        self._open_bytes = 0
        self._last_id = 0
        self._broken: str | None = None

    def __len__(self) -> int:
        return len(self._lines)

    def open(self) -> list[Entry]:
        """Take the lock and read what is not acknowledged, in the order of writing.

        Raises JournalError: another process has it, or the folder cannot be used.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._folder.joinpath("reports.new").unlink(missing_ok=True)
            self._file = self._owned(self._path)
            self._sync_folder()
            return self._read()
        except OSError as error:
            self.close()
            sentence = f"the journal {self._folder} cannot be used: {error.strerror or error}"
            raise JournalError(sentence) from error
        except JournalError:
            self.close()
            raise

    def append(
        self, *, task_id: str, attempt: int, n: int, terminal: bool, body: dict[str, Any], must_fit: bool
    ) -> int:
        """Write a report; it is on disk when this returns its id. Raises QueueFull, JournalError."""
        if self._broken is not None:
            raise JournalError(self._broken)
        entry = {"id": self._last_id + 1, "task_id": task_id, "attempt": attempt, "n": n}
        line = _line(entry | {"terminal": terminal, "body": body})
        limit = self._max_bytes if must_fit else self._max_bytes - self._max_bytes // _RESERVED
        if self._open_bytes + len(line) > limit:
            sentence = f"the journal {self._folder} is full: {len(self._lines)} reports are not acknowledged"
            raise QueueFull(sentence)
        size = self._bytes
        try:
            if size + len(line) > self._max_bytes:
                self._write_anew()
                size = self._bytes
            self._write(line)
            os.fsync(self._file)
        except OSError as error:
            self._after_failure(error, min(size, self._bytes))
        self._last_id += 1
        self._lines[self._last_id] = line
        self._open_bytes += len(line)
        return self._last_id

    def settle(self, ids: Iterable[int]) -> None:
        """These reports are acknowledged, or refused for good. Never raises: at worst they are sent once more."""
        settled = [number for number in ids if number in self._lines]
        for number in settled:
            self._open_bytes -= len(self._lines.pop(number))
        if not settled or self._broken is not None or self._file < 0:
            return
        try:
            if not self._lines:
                os.ftruncate(self._file, 0)
                self._bytes = 0
                return
            line = _line({"settled": settled})
            if self._bytes + len(line) > self._max_bytes:
                self._write_anew()
            else:
                self._write(line)
        except OSError as error:
            _log.warning("the journal %s could not be tidied: %s", self._folder, error.strerror)
            self._cut(self._bytes, error)

    def close(self) -> None:
        """Let go of the files and of the lock; what is not acknowledged stays."""
        if self._lock >= 0:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # a child that was forked just now may not have let go of it yet
        self.let_go()

    def let_go(self) -> None:
        """In a child process: drop the inherited files. The lock stays with the parent."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1
        self._broken = f"the journal {self._folder} is closed"

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _take_lock(self) -> None:
        self._lock = self._owned(self._folder / "lock")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sentence = f"another process uses the journal {self._folder}; give each process a folder of its own"
            raise JournalError(sentence) from None

    def _owned(self, path: Path) -> int:
        """Open a file that the owner of this process alone can read."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, _OWNER_ONLY)
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            os.close(descriptor)
            sentence = f"{path} belongs to somebody else; a journal is for the user that the worker runs as"
            raise JournalError(sentence)
        if status.st_mode & 0o077:
            os.fchmod(descriptor, _OWNER_ONLY)
        return descriptor

    def _read(self) -> list[Entry]:
        content = self._path.read_bytes()
        entries: dict[int, Entry] = {}
        sound = position = 0
        for line in content.splitlines(keepends=True):
            position += len(line)
            record = _record(line)
            if record is None:
                continue
            if sound != position - len(line):
                _log.error("the journal %s is damaged: a line in its middle cannot be read", self._folder)
            sound = position
            for number in record.get("settled", ()):
                entries.pop(number, None)
                self._lines.pop(number, None)
            if "id" in record:
                entry = Entry(**record)
                entries[entry.id] = entry
                self._lines[entry.id] = line
                self._last_id = max(self._last_id, entry.id)
        if sound < len(content):
            _log.warning("the last line of the journal %s was cut off, and is dropped", self._folder)
            os.ftruncate(self._file, sound)
        self._bytes = sound
        self._open_bytes = sum(map(len, self._lines.values()))
        return list(entries.values())

    def _write(self, line: bytes) -> None:
        written = 0
        while written < len(line):
            written += os.write(self._file, line[written:])
        self._bytes += len(line)

    def _write_anew(self) -> None:
        """Replace the file by one with the open reports alone."""
        new = self._folder / "reports.new"
        new.unlink(missing_ok=True)
        old, self._file = self._file, self._owned(new)
        try:
            self._bytes = 0
            self._write(b"".join(self._lines.values()))
            os.fsync(self._file)
            new.rename(self._path)
        except OSError:
            os.close(self._file)
            self._file, self._bytes = old, os.fstat(old).st_size
            raise
        os.close(old)
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _after_failure(self, error: OSError, size: int) -> NoReturn:
        """Take the line away that may not be on disk, and say so."""
        raise JournalError(self._cut(size, error)) from error

    def _cut(self, size: int, error: OSError) -> str:
        """Keep so much: no line may be joined to half of one. If that fails, nothing is promised any more."""
        sentence = f"the journal {self._folder} cannot be written: {error.strerror}"
        try:
            os.ftruncate(self._file, size)
            os.fsync(self._file)
            self._bytes = size
        except OSError:
            self._broken = sentence
        return sentence


def _line(record: dict[str, Any]) -> bytes:
    content = orjson.dumps(record)
    return b"%08x %b\n" % (zlib.crc32(content), content)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a whole line; None for one that is cut off or damaged."""
    checksum, _, content = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(content):
        return None
    record: dict[str, Any] = orjson.loads(content)
    return record
