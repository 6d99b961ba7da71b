"""Cost of playing: MACs (multiply-accumulates), seconds and memory."""
