"""What a pickle is read into, and the checks a value must pass before it is handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optexport.errors import CheckpointError

__all__ = [
    "BASICS",
    "Constant",
    "GlobalRef",
    "Limits",
    "Ordered",
    "Record",
    "brief",
    "check_key",
    "check_shape",
    "record",
]

_KEY_NODES = 1000


@dataclass(frozen=True)
class Limits:
    """Caps on what one pickle may ask for.

    opcodes: instructions executed.
    depth: nesting of the result (and of open marks), so that callers may walk it recursively.
    integer_bytes: size of one integer.
    line: bytes of one text line (protocols 0 and 1, and global names).
    made: containers and objects that are made, each of which takes far more memory than its opcode.

    A walk that follows shared references may meet as many values as the pickle has opcodes; a million
    are always allowed. The defaults are enough for 100 000 tensors, and keep what a file can ask for,
    whatever its length, below 1 GB and a few seconds.
    """

    opcodes: int = 5_000_000
    depth: int = 100
    integer_bytes: int = 4096
    line: int = 1 << 16
    made: int = 1_000_000


@dataclass(frozen=True)
class Constant:
    """An entry of the closed list that stands for a value and is never called."""

    value: Any


@dataclass(frozen=True)
class GlobalRef:
    """A global that a pickle names: only these two words, nothing is looked up or imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{brief(self.module)}.{brief(self.name)}"


@dataclass(eq=False)
class Record:
    """Inert placeholder for an object of a class that is never imported.

    args: what its constructor would have been given. state: what BUILD gave (a dict or a tuple),
    else None. items: list elements, or (key, value) pairs, that were added to it.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: dict[Any, Any] | tuple[Any, ...] | None = None
    items: list[Any] = field(default_factory=list)

    def __optexport_build__(self, state: dict[Any, Any] | tuple[Any, ...]) -> None:
        if self.state is not None:
            raise ValueError(f"{brief(self.module)}.{brief(self.name)} is given its state twice")
        self.state = state


class Ordered(dict):  # type: ignore[type-arg]
    """An OrderedDict as read: a dict whose instance attributes (torch's ``_metadata``) are dropped."""

    def __optexport_build__(self, state: dict[Any, Any] | tuple[Any, ...]) -> None:
        """Attributes of the dict itself carry nothing that a checkpoint needs."""


def record(module: str, name: str) -> Callable[..., Record]:
    """A table entry that turns a class into `Record` placeholders."""
    return lambda *args: Record(module, name, args)


def brief(value: object, width: int = 80) -> str:
    """``value`` on one printable line of at most ``width`` characters, without walking into it."""
    if isinstance(value, str):
        text = value[: width + 1].encode("unicode_escape").decode("ascii")
    elif value is None or isinstance(value, (bool, float)):
        text = repr(value)
    elif isinstance(value, int):
        text = repr(value) if value.bit_length() < 256 else f"an integer of {value.bit_length()} bits"
    elif isinstance(value, (list, tuple, dict, set, bytes, bytearray, memoryview)):
        text = f"a {type(value).__name__} of {len(value)}"
    elif isinstance(value, (Record, GlobalRef)):
        text = f"{brief(value.module)}.{brief(value.name)}"
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= width else text[: width - 3] + "..."


def check_key(key: object) -> None:
    """Raise ValueError unless ``key`` may be a dict key or set element.

    Hashing follows tuples in C without a depth check and without remembering shared parts, so
    tuples are walked here first, with a cap.
    """
    todo = [key]
    seen = 0
    while todo:
        part = todo.pop()
        seen += 1
        if seen > _KEY_NODES:
            raise ValueError(f"a key has more than {_KEY_NODES} parts")
        if isinstance(part, tuple):
            todo.extend(part[: _KEY_NODES + 1])
        elif isinstance(part, (list, dict, set, bytearray, memoryview)) or type(part).__hash__ is None:
            raise ValueError(f"a key holds {brief(part)}, which cannot be a key")


def _children(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, Record):
        yield value.args
        yield value.state
        yield value.items


def check_shape(root: object, *, file: str, limits: Limits, opcodes: int) -> None:
    """Raise CheckpointError if a recursive walk of ``root`` would be too deep, too long or endless.

    Containers can be shared through the memo, so both measures follow every reference, while this
    walk visits each container once and does not recurse.
    """
    allowed = max(1_000_000, opcodes)
    done: dict[int, tuple[int, int]] = {}
    open_: set[int] = set()
    containers = (dict, list, tuple, set, frozenset, Record)
    stack: list[tuple[Any, Iterable[Any], int, int]] = []

    def enter(value: Any) -> None:
        open_.add(id(value))
        if len(open_) > limits.depth:
            raise CheckpointError(
                f"{file}: the pickle is nested more than {limits.depth} levels deep; refused"
            )
        stack.append((value, iter(_children(value)), 1, 1))

    if isinstance(root, containers):
        enter(root)
    while stack:
        value, children, depth, size = stack.pop()
        pushed = False
        for child in children:
            if not isinstance(child, containers):
                size += 1
                continue
            if id(child) in open_:
                raise CheckpointError(f"{file}: the pickle holds a container that contains itself; refused")
            if not child and not isinstance(child, Record):
                depth, size = max(depth, 2), size + 1
                continue
            known = done.get(id(child))
            if known is None:
                stack.append((value, children, depth, size))
                enter(child)
                pushed = True
                break
            depth, size = max(depth, known[0] + 1), size + known[1]
        if pushed:
            continue
        if depth > limits.depth:
            raise CheckpointError(
                f"{file}: the pickle is nested more than {limits.depth} levels deep; refused"
            )
        if size > allowed:
            raise CheckpointError(
                f"{file}: {opcodes} pickle opcodes unfold to more than {allowed} values through shared "
                "references; refused"
            )
        open_.discard(id(value))
        done[id(value)] = (depth, size)
        if stack:
            parent, rest, parent_depth, parent_size = stack.pop()
            stack.append((parent, rest, max(parent_depth, depth + 1), parent_size + size))


def _ordered(*args: Any) -> Ordered:
    out = Ordered()
    if len(args) > 1:
        raise ValueError("an OrderedDict takes one list of pairs")
    for pair in args[0] if args else ():
        key, value = pair
        check_key(key)
        out[key] = value
    return out


def _set(items: Iterable[Any] = ()) -> set[Any]:
    listed = list(items)
    for item in listed:
        check_key(item)
    return set(listed)


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """``_codecs.encode``: how protocol 2 spells bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes must be spelt as latin1 text")
    return text.encode("latin-1")


def _bytes(*args: Any) -> bytes:
    if len(args) > 1 or not all(isinstance(arg, (bytes, memoryview)) for arg in args):
        raise ValueError("bytes are built from bytes only, never from a length")
    return bytes(args[0]) if args else b""


def _bytearray(*args: Any) -> bytearray | memoryview:
    """A memoryview stays one: that is how a large array is read without a copy."""
    if args and isinstance(args[0], str):
        return bytearray(_encode(*args))
    if len(args) > 1 or not all(isinstance(arg, (bytes, bytearray, memoryview)) for arg in args):
        raise ValueError("a bytearray is built from bytes only, never from a length")
    if args and isinstance(args[0], memoryview):
        return args[0]
    return bytearray(*args)


BASICS: Mapping[tuple[str, str], Callable[..., Any] | Constant] = {
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _encode,
    **{(module, "set"): _set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): _frozenset for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _bytes for module in ("builtins", "__builtin__")},
    **{(module, "bytearray"): _bytearray for module in ("builtins", "__builtin__")},
}
