"""Hostile files of every format, and what must happen to each.

``python -m tests.attacks.make FOLDER`` writes them; ``test_attacks.py`` opens each in a process of its
own, where nothing of it may be executed, and which may take neither 1 GB nor 10 s.
``python -m tests.attacks.fuzz --seconds N`` damages the sample files at random; what it finds is kept
in ``found/``.
"""
