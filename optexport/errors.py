"""The library's own exceptions: one class a kind of cause, one line a message.

Every message names the thing (file, parameter, slot), what was expected, what was found and what
to do, so that a command line can print it as it stands and a test can assert it.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "HyperparameterError",
    "ModelError",
    "NamingError",
    "OptexportError",
    "RuleError",
    "UnknownNameError",
    "VerdictError",
]


class OptexportError(Exception):
    """Root of every error that optexport raises on purpose.

    ``exit_code`` is what the command line returns: 2 for bad usage or unreadable input, 1 where a
    check failed or a verdict is not accepted.
    """

    exit_code = 2

    def __init__(self, *causes: str) -> None:
        super().__init__("\n".join(causes))
        self.causes = causes


class RuleError(OptexportError):
    """A rule is not well formed; the message names the line of the rule that is at fault."""


class UnknownNameError(OptexportError):
    """A rule, framework, optimizer, format or argument that nobody registered."""


class HyperparameterError(OptexportError):
    """A hyperparameter or option outside its range."""


class CheckpointError(OptexportError):
    """A file that is not what it claims to be, is damaged, or asks for something unsafe."""


class ModelError(OptexportError):
    """A forward model that no training graph can be made of as it stands; names the node or tensor."""


class NamingError(OptexportError):
    """State that cannot be told which parameter it belongs to."""


class VerdictError(OptexportError):
    """A translation whose verdict was not accepted."""

    exit_code = 1
