"""Processes that train as one, and the random numbers they share."""
