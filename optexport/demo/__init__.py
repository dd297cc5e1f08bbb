"""The demonstration: a real half-finished run, continued elsewhere.

``make_data`` makes the data from a real run (by hand), ``network`` is that run without its optimizer,
``session`` runs the emitted graph, ``run`` does the work and measures, ``show`` prints it for a person.
"""
