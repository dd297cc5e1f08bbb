"""The demonstration: a real half-finished run, continued elsewhere."""
