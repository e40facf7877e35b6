"""Servers and configurations of others, as small as they can be, for `scripts.bench.delivery` to compare with."""
