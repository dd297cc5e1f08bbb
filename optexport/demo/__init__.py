"""The demonstration: a real half-finished run, continued elsewhere.

``make_data`` makes the data from a real run (by hand), ``run`` does the work and measures, ``session``
runs the training graph by its inputs and outputs alone, ``show`` prints it for a person.
"""
