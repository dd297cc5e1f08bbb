"""Pickles that try to run something, or to take memory or time for ever, in every file that holds a pickle."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.attacks.attack import COMMAND, attack, file

NOT_LISTED = "which is not on the closed list; nothing was executed"
_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def called(module: str, name: str, *args: bytes) -> bytes:
    """GLOBAL and REDUCE; the arguments are pickle already."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR."


def stacked(module: str, name: str, *args: bytes) -> bytes:
    """STACK_GLOBAL and REDUCE."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93(" + b"".join(args) + b"tR."


def _reduced_method() -> bytes:
    # getattr(__import__("os"), "system")(COMMAND), which needs no dotted name
    imported = b"cbuiltins\n__import__\n(" + text("os") + b"tR"
    return b"\x80\x02cbuiltins\ngetattr\n(" + imported + text("system") + b"tR(" + text(COMMAND) + b"tR."


def _doubling(levels: int) -> bytes:
    """A list of two lists of two lists …, each stored once."""
    out = b"\x80\x04]\x940"
    for level in range(levels):
        out += b"](" + (b"j" + struct.pack("<I", level)) * 2 + b"e\x940"
    return out + b"j" + struct.pack("<I", levels) + b"."


def _wide_keys() -> bytes:
    """A tuple of tuples of tuples as a key, which would take for ever to hash."""
    out = b"\x80\x04}N\x94"
    for level in range(60):
        out += b"0" + (b"j" + struct.pack("<I", level)) * 2 + b"\x86\x94"
    return out + b"K\x01s."


def _unfolding(values: int) -> bytes:
    """As many values as a walk may meet and few opcodes, which whoever copies what is shared makes real."""
    layers = b"".join(b"](" + (b"h" + bytes([i])) * 94 + b"eq" + bytes([i + 1]) + b"0" for i in range(2))
    return (
        b"\x80\x02](" + b"K\x01" * 100 + b"eq\x000" + layers + b"](" + b"h\x02" * (values // 893_000) + b"e."
    )


MANY = 1_100_000
# name -> (pickle, what is said, or what is said of each container)
PAYLOADS: dict[str, tuple[Callable[[], bytes], str | dict[str, str]]] = {
    "system_by_global": (lambda: called("os", "system", text(COMMAND)), NOT_LISTED),
    "system_by_posix": (lambda: called("posix", "system", text(COMMAND)), NOT_LISTED),
    "system_by_stack_global": (lambda: stacked("os", "system", text(COMMAND)), NOT_LISTED),
    "system_behind_a_dot": (
        lambda: stacked("torch.serialization", "os.system", text(COMMAND)),
        "dotted or empty name torch.serialization.os.system; nothing was executed",
    ),
    "system_behind_numpy": (
        lambda: stacked("numpy.testing._private.utils", "runstring", text("import canary_module"), b"}"),
        NOT_LISTED,
    ),
    "popen": (lambda: called("subprocess", "Popen", text(COMMAND)), NOT_LISTED),
    "eval_by_reduce": (lambda: called("builtins", "eval", text("__import__('canary_module')")), NOT_LISTED),
    "exec_python_2": (lambda: called("__builtin__", "exec", text("import canary_module")), NOT_LISTED),
    "getattr_chain": (_reduced_method, NOT_LISTED),
    "import_only": (lambda: b"\x80\x02ccanary_module\nx\n.", NOT_LISTED),
    "nested_loader": (lambda: called("torch", "load", text("other.pt")), NOT_LISTED),
    "shell_by_inst": (lambda: b"(" + text(COMMAND) + b"ios\nsystem\n.", "opcode INST is not needed"),
    "shell_by_obj": (lambda: b"(cbuiltins\nset\n" + text(COMMAND) + b"o.", "opcode OBJ is not needed"),
    "extension_registry": (lambda: b"\x80\x02\x82\x01.", "opcode EXT1 is not needed"),
    "persistent_text": (lambda: b"P../secret.bin\n.", "opcode PERSID is not needed"),
    "newobj_ex": (lambda: b"\x80\x04cbuiltins\nset\n)}\x92.", "opcode NEWOBJ_EX is not needed"),
    "build_on_a_dict": (lambda: b"\x80\x02}}" + text("__class__") + b"K\x01sb.", "which only placeholder objects may be"),
    "build_on_a_list": (lambda: b"\x80\x02]}" + text("append") + b"K\x01sb.", "which only placeholder objects may be"),
    "build_on_a_set": (lambda: b"\x80\x04\x8f}" + text("add") + b"K\x01sb.", "which only placeholder objects may be"),
    "calls_a_number": (lambda: b"\x80\x02K\x01)R.", "only globals on the closed list are called"),
    "doubling": (lambda: _doubling(60), "values through shared references; refused"),
    "unfolding": (
        lambda: _unfolding(900_000),
        {"mxnet": "the pickle holds a list", "optax": "found no array of a parameter in it", "": "found a list of 1"},
    ),
    "doubling_key": (_wide_keys, "a key has more than 1000 parts"),
    "deep": (lambda: b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "nested more than 100 levels deep"),
    "deep_marks": (lambda: b"\x80\x02" + b"(" * 500_000 + b"." , "marks are open"),
    "in_itself": (lambda: b"\x80\x02]q\x00h\x00a.", "a container that contains itself; refused"),
    "huge_integer": (lambda: b"\x80\x02\x8b" + struct.pack("<i", 1 << 24) + bytes(1 << 24) + b".", "an integer of"),
    "huge_integer_absent": (lambda: b"\x80\x02\x8b\xff\xff\xff\x7f.", "an integer of 2147483647 bytes"),
    "huge_integer_text": (lambda: b"I" + b"9" * 3_000_000 + b"\n.", "a text line is longer than"),
    "huge_string": (lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.", "pickle truncated at byte"),
    "huge_bytes": (lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.", "pickle truncated at byte"),
    "huge_bytearray": (lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.", "pickle truncated at byte"),
    "huge_frame": (lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", "pickle truncated at byte"),
    "huge_memo_index": (lambda: b"\x80\x02Nr\xff\xff\xff\x7f.", "memo index 2147483647 is beyond"),
    "bytearray_of_a_length": (lambda: called("builtins", "bytearray", b"\x8a\x05\x00\x00\x00\x00\x10"), "from a length"),
    "many_lists": (lambda: b"\x80\x04(" + b"]" * MANY + b"l.", "containers and objects"),
    "many_sets": (lambda: b"\x80\x04(" + b"\x8f" * MANY + b"l.", "containers and objects"),
    "many_objects": (
        lambda: b"\x80\x02ccollections\nOrderedDict\nq\x000(" + b"h\x00)R" * MANY + b"l.",
        "containers and objects",
    ),
    "many_dicts_of_one": (lambda: b"\x80\x04(" + b"}NNs" * MANY + b"l.", "containers and objects"),
    "many_memo_entries": (lambda: b"\x80\x04N" + b"\x94" * 5_000_000 + b".", "pickle opcodes"),
    "many_sets_just_allowed": (lambda: b"\x80\x04(" + b"\x8f" * 999_000 + b"l.", "found a list of 999000"),
    "many_nothings": (lambda: b"\x80\x04" + b"N0" * 2_500_000 + b"N.", "pickle opcodes"),
}  # fmt: skip


def _zip(folder: Path, pickle: bytes) -> Path:
    path = folder / "hostile.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/version", b"3\n")
    return path


def _legacy(folder: Path, pickle: bytes) -> Path:
    system = b"\x80\x02}" + text("little_endian") + b"\x88s."
    return file(
        folder, "hostile.pt", b"\x80\x02" + _MAGIC + b"\x80\x02M\xe9\x03." + system + pickle + b"\x80\x02]."
    )


def _metadata(folder: Path, pickle: bytes) -> Path:
    hostile = folder / "hostile"
    hostile.mkdir()
    file(hostile, ".metadata", pickle)
    return hostile


# What tells an Optax pickle: the name of one of its classes, here dropped again.
_OPTAX = b"\x80\x02coptax._src.base\nEmptyState\n0"

CONTAINERS: dict[str, tuple[str | None, Callable[[Path, bytes], Path]]] = {
    "torch_zip": ("torch", _zip),
    "torch_legacy": ("torch", _legacy),
    "torch_dcp": (None, _metadata),
    "mxnet": ("mxnet", lambda folder, pickle: file(folder, "hostile.states", pickle)),
    "paddle": ("paddle", lambda folder, pickle: file(folder, "hostile.pdopt", pickle)),
    "optax": ("optax", lambda folder, pickle: file(folder, "hostile.pkl", _OPTAX + pickle)),
}
# What takes memory or time is the interpreter's, which they share: in one container.
_HEAVY = ("many_", "huge_integer", "deep")

for _name, (_make, _says) in PAYLOADS.items():
    for _container, (_format, _wrap) in CONTAINERS.items():
        if _name.startswith(_HEAVY) and _container != "torch_zip":
            continue

        def _build(folder: Path, make: Callable[[], bytes] = _make,
                   wrap: Callable[[Path, bytes], Path] = _wrap) -> Path:  # fmt: skip
            return wrap(folder, make())

        # Every way of opening, of one container; of the others, their readers.
        attack(
            _says if isinstance(_says, str) else _says.get(_container, _says[""]),
            format=_format,
            name=f"pickle_{_name}_in_{_container}",
            once=_container != "torch_zip" or _name.startswith(("many_", "unfolding")),
        )(_build)
