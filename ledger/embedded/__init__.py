"""Our own PostgreSQL, started when no DATABASE_URL is set: to try the product, and for small installations.

    binaries   which PostgreSQL: one named, the wheel's, or the machine's
    folder     where the data lives, who owns it, and that nobody else is using it
    child      a process that dies when we do
    server     the life of the server: made, started, stopped

Linux only. It never listens on a network, never adds a user, and never opens a folder that is not its own.
"""

from ledger.embedded.server import MAX_CONNECTIONS, EmbeddedPostgres

__all__ = ["MAX_CONNECTIONS", "EmbeddedPostgres"]
