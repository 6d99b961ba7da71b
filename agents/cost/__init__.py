"""Cost of playing: multiply-adds, seconds and memory."""
