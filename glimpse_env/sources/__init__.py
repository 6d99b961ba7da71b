"""Clip sources: the protocol, arrays, synthetic clips, sliding windows and splits."""
