"""Optax: files and dialect. Nothing in `checkpoint` and `dialect` imports jax or optax."""
