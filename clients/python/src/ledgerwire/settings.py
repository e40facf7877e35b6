"""How long things may take. Every wait has its limit here, or in an argument named `timeout_seconds`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds, with the defaults that fit a gateway with its own default limits.

    A reply is expected within 15 s because the gateway answers every request within 7 s; a connection that is
    silent for one and a half ping intervals and 5 s more is abandoned.
    """

    open_seconds: float = 10.0
    """Until the WebSocket is open, and again until `welcome`."""
    send_seconds: float = 10.0
    """Until the socket takes a frame; a peer that takes nothing for so long is gone."""
    reply_seconds: float = 15.0
    """Until the reply to a message; then the connection is abandoned and the message sent over a new one."""
    silence_factor: float = 1.5
    silence_margin_seconds: float = 5.0
    """A connection without any frame for `ping interval x silence_factor + margin` is abandoned."""
    reconnect_floor_seconds: float = 0.1
    reconnect_ceiling_seconds: float = 10.0
    """Full jitter between these, doubling; a `retry_after_ms` of the gateway goes before."""
    steady_seconds: float = 1.0
    """A connection that lasted so long lets the reconnect delays begin from the floor again."""
    beat_seconds: float = 5.0
    """A held task with nothing reported for so long gets a beat; its lease is four times as long."""
    finish_seconds: float = 120.0
    """Until the acknowledgement of the report that ends a task, when a task block is left."""
    close_seconds: float = 10.0
    """Until the last reports are acknowledged, when a worker is closed; and as long again for the socket."""
    slow_seconds: float = 1.0
    """A watcher stops reading for so long when a consumer's buffer is full, before setting its task aside."""
    unreachable_seconds: float | None = 300.0
    """A watcher without a connection for so long raises `Unreachable`; None waits for ever."""
    poll_seconds: float | None = 2.0
    """A watcher polls as often while three connections in a row could not be opened; None: it never polls."""
