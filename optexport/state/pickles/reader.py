"""A pickle interpreter that calls nothing but what its caller lists.

An opcode loop rather than a restricted `pickle.Unpickler`: the standard one allocates for lengths
and memo indexes that the file declares before it has looked whether the bytes are there, resolves
dotted names, and sets attributes on real objects.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from optexport.errors import CheckpointError, OptexportError
from optexport.state.pickles.objects import (
    BASICS,
    Constant,
    GlobalRef,
    Limits,
    Ordered,
    Record,
    brief,
    check_key,
    check_shape,
    record,
)

__all__ = ["BASICS", "Constant", "GlobalRef", "Limits", "Ordered", "Record", "load_at", "loads", "record"]

Constructors = Mapping[tuple[str, str], Callable[..., Any] | Constant]

_LIMITS = Limits()

# Byte strings from this size on are worth a view instead of a copy.
_VIEW_BYTES = 1024

_REFUSED = {
    ord("i"): "INST", ord("o"): "OBJ", ord("P"): "PERSID", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4",
    0x92: "NEWOBJ_EX", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip


def loads(
    data: bytes | memoryview,
    *,
    file: str,
    constructors: Constructors,
    persistent_load: Callable[[Any], Any] | None = None,
    limits: Limits = _LIMITS,
    unknown: str = "refuse",
    views: bool = False,
) -> Any:
    """The object that ``data``, one whole pickle, describes.

    file: name for messages. constructors: the closed list; a value is either a function, called
    with the pickled arguments by REDUCE and NEWOBJ, or a `Constant`. persistent_load: resolves
    BINPERSID, None where the format has none. unknown: ``"refuse"`` (any global outside the list is
    an error) or ``"inert"`` (it becomes a `GlobalRef`, or a `Record` where it would be called).
    views: give byte strings of 1 KiB or more as read-only memoryviews on ``data``, without a copy.

    Raises CheckpointError if the pickle is truncated, damaged, exceeds ``limits``, asks for a global
    that is not listed, or is followed by further bytes.
    """
    value, end = load_at(
        data, 0, file=file, constructors=constructors, persistent_load=persistent_load, limits=limits,
        unknown=unknown, views=views,
    )  # fmt: skip
    if end != len(data):
        raise CheckpointError(f"{file}: {len(data) - end} bytes follow the end of the pickle at byte {end}")
    return value


def load_at(
    data: bytes | memoryview,
    offset: int,
    *,
    file: str,
    constructors: Constructors,
    persistent_load: Callable[[Any], Any] | None = None,
    limits: Limits = _LIMITS,
    unknown: str = "refuse",
    views: bool = False,
) -> tuple[Any, int]:
    """Like `loads` for the pickle that starts at ``offset``; also returns the offset just after it."""
    if unknown not in ("refuse", "inert"):
        raise ValueError(f"unknown must be 'refuse' or 'inert', not {unknown!r}")
    machine = _Machine(memoryview(data).toreadonly(), offset, file, constructors, persistent_load, limits)
    machine.inert = unknown == "inert"
    machine.views = views
    value = machine.run()
    check_shape(value, file=file, limits=limits, opcodes=machine.count)
    return value, machine.at


class _Machine:
    """Stack, memo and position of one pickle that is being read."""

    inert = False
    views = False

    def __init__(
        self,
        data: memoryview,
        offset: int,
        file: str,
        constructors: Constructors,
        persistent_load: Callable[[Any], Any] | None,
        limits: Limits,
    ) -> None:
        self.data, self.at, self.file, self.limits = data, offset, file, limits
        self.constructors, self.persistent_load = constructors, persistent_load
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.count = 0
        self.made = 0
        self.finished = False

    def run(self) -> Any:
        data, size, steps = self.data, len(self.data), _STEPS
        while not self.finished:
            if self.at >= size:
                self.truncated()
            code = data[self.at]
            self.at += 1
            self.count += 1
            if self.count > self.limits.opcodes:
                self.fail(f"more than {self.limits.opcodes} pickle opcodes")
            step = steps.get(code)
            if step is None:
                name = _REFUSED.get(code)
                self.fail(
                    f"pickle opcode {name} is not needed by any checkpoint and is refused"
                    if name else f"0x{code:02x} is not a pickle opcode"
                )  # fmt: skip
            if code in _MAKES:
                self.made += 1
                if self.made > self.limits.made:
                    self.fail(f"more than {self.limits.made} containers and objects")
            step(self)
        if len(self.stack) != 1 or self.marks:
            self.fail(f"the pickle ends with {len(self.stack)} values on its stack instead of 1")
        return self.stack[0]

    # -- failures -----------------------------------------------------------------------------

    def fail(self, cause: str) -> NoReturn:
        raise CheckpointError(f"{self.file}: {cause} (byte {self.at - 1})")

    def truncated(self) -> NoReturn:
        raise CheckpointError(f"{self.file}: pickle truncated at byte {len(self.data)}")

    # -- bytes --------------------------------------------------------------------------------

    def take(self, length: int) -> memoryview:
        """The next ``length`` bytes; compared with what is left before anything is allocated."""
        if length > len(self.data) - self.at:
            self.truncated()
        start = self.at
        self.at += length
        return self.data[start : self.at]

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        chunk = bytes(self.data[self.at : self.at + self.limits.line])
        end = chunk.find(b"\n")
        if end < 0:
            if len(chunk) < self.limits.line:
                self.truncated()
            self.fail(f"a text line is longer than {self.limits.line} bytes")
        self.at += end + 1
        return chunk[:end]

    def text(self, raw: memoryview | bytes, encoding: str = "utf-8") -> str:
        try:
            return str(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError:
            self.fail(f"a string is not {encoding}")

    # -- stack --------------------------------------------------------------------------------

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.fail("a pickle opcode takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.fail("a pickle opcode needs a value on an empty stack")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            self.fail("a pickle opcode needs a mark and there is none")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # -- containers ---------------------------------------------------------------------------

    def put_items(self, target: Any, flat: list[Any]) -> None:
        if len(flat) % 2:
            self.fail("a dictionary entry has a key and no value")
        if isinstance(target, Record):
            target.items.extend(zip(flat[::2], flat[1::2], strict=True))
            return
        if not isinstance(target, dict):
            self.fail(f"dictionary entries are put into {brief(target)}")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[self.key(key)] = value

    def put_elements(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Record):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            self.fail(f"list elements are put into {brief(target)}")

    def key(self, value: Any) -> Any:
        try:
            check_key(value)
        except ValueError as error:
            self.fail(str(error))
        return value

    # -- memo ---------------------------------------------------------------------------------

    def remember(self, index: int) -> None:
        # A pickler numbers its entries from 0, so none can be beyond the opcodes read so far.
        if not 0 <= index <= self.count:
            self.fail(f"memo index {brief(index)} is beyond the {self.count} opcodes read so far")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.fail(f"memo entry {brief(index)} is used and was never stored")
        self.stack.append(self.memo[index])

    # -- globals ------------------------------------------------------------------------------

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            self.fail("the name of a global is not text")
        if "." in name or not name or not module:
            asked = f"{brief(module)}.{brief(name)}"
            self.fail(f"the pickle asks for the dotted or empty name {asked}; nothing was executed")
        entry = self.constructors.get((module, name))
        if entry is None and not self.inert:
            asked = f"{brief(module)}.{brief(name)}"
            self.fail(f"the pickle asks for {asked}, which is not on the closed list; nothing was executed")
        self.stack.append(entry.value if isinstance(entry, Constant) else GlobalRef(module, name))

    def call(self) -> None:
        args = self.pop()
        target = self.pop()
        if not isinstance(target, GlobalRef):
            self.fail(f"the pickle calls {brief(target)}; only globals on the closed list are called")
        if not isinstance(args, tuple):
            self.fail(f"{target} is called with {brief(args)} instead of a tuple")
        build = self.constructors.get((target.module, target.name))
        if build is None or isinstance(build, Constant):
            self.stack.append(Record(target.module, target.name, args))
            return
        self.stack.append(self.guard(target, "cannot be built", build, *args))

    def guard(self, what: object, fault: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call one of our own functions on values from the file; what it raises is the file's fault."""
        try:
            return function(*args)
        except OptexportError:
            raise
        except Exception as error:
            self.fail(f"{brief(what)} {fault}: {brief(str(error), 200)}")

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if not isinstance(state, (dict, tuple)):
            self.fail(f"{brief(target)} is given {brief(state)} as its state; expected a dict or a tuple")
        hook = getattr(type(target), "__optexport_build__", None)
        if hook is None:
            self.fail(f"{brief(target)} is given a state, which only placeholder objects may be")
        self.guard(target, "cannot be given its state", hook, target, state)


def _proto(m: _Machine) -> None:
    if (version := m.unsigned(1)) > 5:
        m.fail(f"pickle protocol {version} is newer than 5")


def _frame(m: _Machine) -> None:
    # A frame is only a hint for buffering; its length must still be believable.
    if m.unsigned(8) > len(m.data) - m.at:
        m.truncated()


def _mark(m: _Machine) -> None:
    if len(m.marks) >= m.limits.depth:
        m.fail(f"more than {m.limits.depth} marks are open")
    m.marks.append(len(m.stack))


def _stop(m: _Machine) -> None:
    m.finished = True


def _integer(m: _Machine, width: int) -> None:
    length = m.unsigned(width)
    if length > m.limits.integer_bytes:
        m.fail(f"an integer of {length} bytes")
    m.stack.append(int.from_bytes(m.take(length), "little", signed=True))


def _text_number(m: _Machine, kind: str) -> None:
    raw = m.line()
    if kind == "I" and raw in (b"00", b"01"):
        m.stack.append(raw == b"01")
        return
    try:
        if kind == "F":
            m.stack.append(float(raw))
        elif len(raw) > 4000:
            raise ValueError
        else:
            m.stack.append(int(raw.removesuffix(b"L") if kind == "L" else raw))
    except ValueError:
        m.fail("a text number cannot be read")


def _quoted(m: _Machine) -> None:
    raw = m.line()
    if len(raw) < 2 or raw[0] != raw[-1] or raw[:1] not in (b"'", b'"'):
        m.fail("a text string is not quoted")
    try:
        m.stack.append(codecs.escape_decode(raw[1:-1])[0].decode("latin-1"))  # type: ignore[attr-defined]
    except ValueError:
        m.fail("a text string cannot be read")


def _raw_unicode(m: _Machine) -> None:
    m.stack.append(m.text(m.line(), "raw-unicode-escape"))


def _string(width: int, encoding: str) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        m.stack.append(m.text(m.take(m.unsigned(width)), encoding))

    return step


def _bytes(width: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        raw = m.take(m.unsigned(width))
        m.stack.append(raw if m.views and len(raw) >= _VIEW_BYTES else bytes(raw))

    return step


def _bytearray8(m: _Machine) -> None:
    raw = m.take(m.unsigned(8))
    m.stack.append(raw if m.views and len(raw) >= _VIEW_BYTES else bytearray(raw))


def _packed(layout: str) -> Callable[[_Machine], None]:
    packed = struct.Struct(layout)

    def step(m: _Machine) -> None:
        m.stack.append(packed.unpack(m.take(packed.size))[0])

    return step


def _push(make: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(make())


def _tuple(length: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        items = [m.pop() for _ in range(length)]
        m.stack.append(tuple(reversed(items)))

    return step


def _dict(m: _Machine) -> None:
    items = m.pop_mark()
    target: dict[Any, Any] = {}
    m.put_items(target, items)
    m.stack.append(target)


def _append(m: _Machine) -> None:
    item = m.pop()
    m.put_elements(m.top(), [item])


def _appends(m: _Machine) -> None:
    items = m.pop_mark()
    m.put_elements(m.top(), items)


def _setitem(m: _Machine) -> None:
    value = m.pop()
    key = m.pop()
    m.put_items(m.top(), [key, value])


def _setitems(m: _Machine) -> None:
    items = m.pop_mark()
    m.put_items(m.top(), items)


def _additems(m: _Machine) -> None:
    items = m.pop_mark()
    target = m.top()
    if not isinstance(target, set):
        m.fail(f"set elements are put into {brief(target)}")
    for item in items:
        target.add(m.key(item))


def _frozenset(m: _Machine) -> None:
    m.stack.append(frozenset(m.key(item) for item in m.pop_mark()))


def _pop(m: _Machine) -> None:
    # The standard interpreter lets POP take a mark off as well.
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.pop()


def _text_index(m: _Machine) -> int:
    raw = m.line()
    if not raw.isdigit() or len(raw) > 18:
        m.fail("a memo index cannot be read")
    return int(raw)


def _global(m: _Machine) -> None:
    module = m.text(m.line())
    m.find(module, m.text(m.line()))


def _stack_global(m: _Machine) -> None:
    name = m.pop()
    m.find(m.pop(), name)


def _persistent(m: _Machine) -> None:
    identity = m.pop()
    if m.persistent_load is None:
        m.fail("the pickle refers to data outside itself, which this format does not have")
    m.stack.append(m.guard("a persistent reference", "cannot be resolved", m.persistent_load, identity))


_STEPS: dict[int, Callable[[_Machine], None]] = {
    0x80: _proto, 0x95: _frame, ord("("): _mark, ord("."): _stop,
    ord("N"): _push(lambda: None), 0x88: _push(lambda: True), 0x89: _push(lambda: False),
    ord("J"): _packed("<i"), ord("K"): _packed("<B"), ord("M"): _packed("<H"), ord("G"): _packed(">d"),
    0x8A: lambda m: _integer(m, 1), 0x8B: lambda m: _integer(m, 4),
    ord("I"): lambda m: _text_number(m, "I"), ord("L"): lambda m: _text_number(m, "L"),
    ord("F"): lambda m: _text_number(m, "F"), ord("S"): _quoted, ord("V"): _raw_unicode,
    0x8C: _string(1, "utf-8"), ord("X"): _string(4, "utf-8"), 0x8D: _string(8, "utf-8"),
    ord("U"): _string(1, "latin-1"), ord("T"): _string(4, "latin-1"),
    ord("C"): _bytes(1), ord("B"): _bytes(4), 0x8E: _bytes(8), 0x96: _bytearray8,
    ord("}"): _push(dict), ord("]"): _push(list), ord(")"): _push(tuple), 0x8F: _push(set),
    ord("t"): lambda m: m.stack.append(tuple(m.pop_mark())), ord("l"): lambda m: m.stack.append(m.pop_mark()),
    ord("d"): _dict, 0x85: _tuple(1), 0x86: _tuple(2), 0x87: _tuple(3),
    ord("a"): _append, ord("e"): _appends, ord("s"): _setitem, ord("u"): _setitems,
    0x90: _additems, 0x91: _frozenset,
    ord("0"): _pop, ord("1"): lambda m: _discard(m.pop_mark()), ord("2"): lambda m: m.stack.append(m.top()),
    ord("q"): lambda m: m.remember(m.unsigned(1)), ord("r"): lambda m: m.remember(m.unsigned(4)),
    ord("p"): lambda m: m.remember(_text_index(m)), 0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.recall(m.unsigned(1)), ord("j"): lambda m: m.recall(m.unsigned(4)),
    ord("g"): lambda m: m.recall(_text_index(m)),
    ord("c"): _global, 0x93: _stack_global, ord("R"): _Machine.call, 0x81: _Machine.call,
    ord("b"): _Machine.build, ord("Q"): _persistent,
}  # fmt: skip


# GLOBAL too: a name that is not on the list is an object where it is not an error.
_MAKES = frozenset((*b"}]tldcR", 0x8F, 0x85, 0x86, 0x87, 0x91, 0x93, 0x81))


def _discard(items: list[Any]) -> None:
    """POP_MARK: the values are dropped."""
