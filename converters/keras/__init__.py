"""Keras 3: files and dialect. Nothing in `checkpoint`, `dialect` and `emit` imports Keras."""
