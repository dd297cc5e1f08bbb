"""Gradient rules, one file a group of operators."""
