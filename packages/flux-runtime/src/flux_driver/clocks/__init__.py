"""Capture times of other clocks on `time.monotonic()`: cameras, controllers, other computers."""
