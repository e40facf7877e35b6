"""The HTTP face: REST for tasks, health for operators, and the door to the transports."""
