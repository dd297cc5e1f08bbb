"""Rows of the parity table, one file a family."""
