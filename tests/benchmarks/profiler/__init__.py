"""Profiler of a training iteration."""
