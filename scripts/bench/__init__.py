"""The bench: what the ledger costs and how fast it is, on one machine, beside what else could do the work.

No part of the product. Each verb is a module with `configure` (its options) and `measure` (its run); the others are
the parts they share. It stops only what it started.
"""
