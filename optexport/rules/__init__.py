"""Update rules: one file a family, with the maths beside its source. `catalogue` names them."""

from .base import Family, Hyper, Option, Rule, Slot, families
from .catalogue import CATALOGUE, Entry, lookup, name_of

__all__ = ["CATALOGUE", "Entry", "Family", "Hyper", "Option", "Rule", "Slot", "families", "lookup", "name_of"]
