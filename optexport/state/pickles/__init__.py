"""Pickles without executing them: an opcode loop of our own (`reader`) and a plain writer (`writer`).

Nothing here imports `pickle`. Reading calls only functions that the caller put on a closed list of
exact (module, name) pairs; everything else in a file is refused with a `CheckpointError`.
"""

from __future__ import annotations

from optexport.state.pickles.arrays import NUMPY, PickledArray
from optexport.state.pickles.reader import (
    BASICS,
    Constant,
    GlobalRef,
    Limits,
    Ordered,
    Record,
    load_at,
    loads,
    record,
)
from optexport.state.pickles.writer import Bulk, Global, NewObj, Persistent, Reduce, dump, dumps

__all__ = [
    "BASICS",
    "NUMPY",
    "Bulk",
    "Constant",
    "Global",
    "GlobalRef",
    "Limits",
    "NewObj",
    "Ordered",
    "Persistent",
    "PickledArray",
    "Record",
    "Reduce",
    "dump",
    "dumps",
    "load_at",
    "loads",
    "record",
]
