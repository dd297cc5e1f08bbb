"""MXNet's optimizers by family; ``dialect.py`` collects them."""
