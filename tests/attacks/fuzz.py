"""Damage the sample files: ``python -m tests.attacks.fuzz [--seconds N] [--seed N] [WORD …]``.

Whatever the damage, a reader gives a state or an error of the library's own, soon and in little memory.
Finds are written to ``found/`` under their sample's name, and each is opened by ``test_fuzz.py`` from
then on.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.attacks.runner import Runner

__all__ = ["FOUND", "Sample", "damaged", "samples", "write"]

DATA = Path(__file__).parents[1] / "data"
FOUND = Path(__file__).parent / "found"
# Numbers that lengths, counts and offsets break on.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
_LARGEST = 300_000


@dataclass(frozen=True)
class Sample:
    """A checkpoint of tests/data, and the one file of it that is damaged.

    root: the file or the folder to open. inside: of the folder, the file; None where root is the file.
    """

    root: Path
    inside: Path | None = None

    @property
    def name(self) -> str:
        parts = self.root.relative_to(DATA).parts
        return "-".join(parts if self.inside is None else (*parts, *self.inside.parts))

    def data(self) -> bytes:
        return (self.root if self.inside is None else self.root / self.inside).read_bytes()


def samples() -> list[Sample]:
    """One for each file of each checkpoint; text that describes them is none."""
    out = []
    for folder in sorted(DATA.iterdir()):
        for root in sorted(folder.iterdir()) if folder.is_dir() else ():
            if root.is_dir():
                files = sorted(p for p in root.rglob("*") if p.is_file())
                out += [Sample(root, p.relative_to(root)) for p in files if p.stat().st_size < _LARGEST]
            elif root.name != "expected.json" and not root.name.startswith("spec_"):
                out.append(Sample(root))
    return [s for s in out if s.data()]


def damaged(data: bytes, hits: Sequence[tuple[int, int, int]]) -> bytes:
    """``data`` after each hit: (what, where, how much), any non-negative numbers."""
    raw = bytearray(data)
    for what, where, amount in hits:
        size = max(1, len(raw))
        # Headers, indexes and ends decide more than tensors: half of the hits go there.
        near = (where >> 2) % min(size, 512)
        at = (where >> 2) % size if where & 1 else near if where & 2 else size - 1 - near
        match what % 7:
            case 0:
                raw[at : at + 1] = bytes([amount & 0xFF])
            case 1:
                raw[at : at + 1] = bytes([raw[at] ^ (1 << amount % 8)]) if raw else b""
            case 2:
                del raw[at:]
            case 3:
                del raw[at : at + 1 + amount % 64]
            case 4:
                start = amount % size
                raw[at:at] = raw[start : start + 1 + amount % 97]
            case 5:
                start = amount % size
                piece = raw[start : start + 1 + amount % 41]
                raw[at : at + len(piece)] = piece
            case 6:
                width = (1, 2, 4, 8)[amount % 4]
                number = _NUMBERS[(amount >> 2) % len(_NUMBERS)] & ((1 << 8 * width) - 1)
                raw[at : at + width] = number.to_bytes(width, "big" if amount & 1 << 20 else "little")
    return bytes(raw)


def write(sample: Sample, data: bytes, folder: Path) -> Path:
    """The sample with ``data`` in place of its file; the path to open."""
    target = folder / sample.root.name
    if sample.inside is None:
        # With what belongs to it: shards, external data, weights of the same run.
        stem = sample.root.name.split(".")[0].split("-")[0]
        for near in sample.root.parent.glob(f"{stem}*"):
            if near.is_file() and near != sample.root:
                shutil.copy(near, folder)
        target.write_bytes(data)
        return folder / _opened(sample.root.name)
    shutil.copytree(sample.root, target)
    (target / sample.inside).write_bytes(data)
    return target


def _opened(name: str) -> str:
    """The file to open for damage in this one to be met."""
    for pattern, instead in ((r"\.data-\d+-of-\d+$", ".index"), (r"(\.onnx)\.data$", r"\1"),
                             (r"-\d+-of-\d+\.safetensors$", ".safetensors.index.json")):  # fmt: skip
        name = re.sub(pattern, instead, name)
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("words", nargs="*", help="only samples that have one of these in their name")
    options = parser.parse_args()
    chosen = [s for s in samples() if not options.words or any(w in s.name for w in options.words)]
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    source = random.Random(seed)
    print(f"seed {seed}, {len(chosen)} files")
    end, count, kinds = time.monotonic() + options.seconds, 0, set[str]()
    with Runner() as runner:
        while time.monotonic() < end:
            sample = source.choice(chosen)
            hits = [(source.getrandbits(8), source.getrandbits(32), source.getrandbits(32))
                    for _ in range(source.choice((1, 1, 2, 3, 8)))]  # fmt: skip
            data = damaged(sample.data(), hits)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    faults = runner.open(write(sample, data, Path(folder))).faults()
                except (RuntimeError, BrokenPipeError) as error:
                    faults = [str(error)]
            count += 1
            kind = " | ".join(f.split(": ", 2)[1][:40] + f[-60:] if ": " in f else f[:40] for f in faults)
            if faults and kind not in kinds:
                kinds.add(kind)
                path = FOUND / f"{hashlib.sha256(data).hexdigest()[:8]}-{sample.name}"
                path.write_bytes(data)
                print(f"{path.name}\n    " + "\n    ".join(faults))
    print(f"{count} files, {len(kinds)} finds")


if __name__ == "__main__":
    main()
