"""Wire protocol v1 without I/O: messages in, effects out. No clock, no socket, no log; see docs/protocol.md."""
