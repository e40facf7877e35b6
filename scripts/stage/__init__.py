"""What the demo is played on: a gateway and the example's backend as child processes, and a comparing watcher.

For `scripts/demo.py` and the end-to-end tests; no part of the product, which imports nothing from here.
"""
