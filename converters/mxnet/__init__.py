"""MXNet 1.9.1: its optimizer-state pickles and NDArray files.

`ndarray` knows the binary array format, `checkpoint` the files around it; neither imports MXNet.
"""
