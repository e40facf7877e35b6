"""Durable tasks in PostgreSQL. Has never heard of a socket."""
