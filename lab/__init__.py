"""What stands in for the outside world on one machine: the engine, a real OpenStack, the nodes. Users of their own cloud need none of it."""
