"""The tests. A regular package, so that `tests.support` is ours whatever else is installed."""
