"""Compute: multiply-adds, seconds and memory."""
