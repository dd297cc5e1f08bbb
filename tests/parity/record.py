"""The rows of the table, as `optexport.parity.record` has them."""

from optexport.parity.record import *  # noqa: F403
