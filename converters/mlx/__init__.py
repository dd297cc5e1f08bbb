"""MLX: its optimizers as rules, and their state in safetensors and NumPy files."""
