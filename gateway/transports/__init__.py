"""Bytes in, frames out: what carries a connection to its peer."""
