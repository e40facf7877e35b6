"""A small real application on Ledgerwire: it indexes the Python standard library while somebody watches.

`jobs` holds the worker, `indexer` the CPU work (a `process` of its own), `backend` the page and `POST /jobs`.
Nothing here knows the gateway's insides: it uses the Python client and the wire protocol, as any user would.
"""
