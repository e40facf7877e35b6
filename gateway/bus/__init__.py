"""Buses carry hints between nodes: "this task has reached that sequence". Losing all of them costs a second."""
