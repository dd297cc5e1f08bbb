"""PyTorch: files and dialect. Nothing in `checkpoint` and its helpers imports torch."""
