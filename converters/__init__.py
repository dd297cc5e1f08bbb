"""Converters: one folder a framework, the same files in each."""
