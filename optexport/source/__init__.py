"""Rules as Python source: what the emitters of Python frameworks share.

A framework supplies one table (`Operators`) from the IR's operators to its own; `functions` turns a
rule's program into two readable functions with it:

    def init_adamw(param, hyper): ...                          the slots before the first update
    def update_adamw(param, grad, step, hyper, slots): ...     the new parameter and the new slots

Tensors are the framework's. Scalars are Python floats, or, where a framework traces its functions
(JAX under jit), whatever ``step`` and the hyperparameters are: see `Operators.traced`. Arithmetic
keeps the order that the rule has; every pair of parentheses that matters in floating point is there.

`operators` is the table, `writer` writes a program, `naming` names rules and classes, `text` is
about text alone.
"""

from .naming import class_name, default_group, first_step, rule_name, rule_named, rules_of
from .operators import HELPERS, TRACED_SCALARS, Operators
from .text import call, docstring, entries, execute, module, number
from .writer import Functions, functions, given

__all__ = [
    "HELPERS",
    "TRACED_SCALARS",
    "Functions",
    "Operators",
    "call",
    "class_name",
    "default_group",
    "docstring",
    "entries",
    "execute",
    "first_step",
    "functions",
    "given",
    "module",
    "number",
    "rule_name",
    "rule_named",
    "rules_of",
]
