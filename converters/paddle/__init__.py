"""Paddle: its optimizers as rules, and their state in ``.pdopt`` files."""
