"""Optax' aliases as rules, one file a family. `common` is what all of them share."""
