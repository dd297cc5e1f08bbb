"""The wire format: ``optexport.proto``, its compiled descriptors, and messages made from them.

Messages are built from the descriptor file at run time, so that no generated code ties the project
to one protobuf release. Regenerate the descriptors after a change of the ``.proto`` with

    python -m grpc_tools.protoc -I schemas --include_imports \\
        --descriptor_set_out=schemas/optexport.binpb schemas/optexport.proto
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

__all__ = ["FORMAT_VERSION", "SPEC_VERSION", "message"]

# The newest versions of a manifest and of a spec; this release reads every version up to them. It writes the
# oldest that can say what there is to say: 2 for a manifest with buffers, else 1.
FORMAT_VERSION = 2
SPEC_VERSION = 1


@cache
def message(name: str) -> Any:
    """The message class ``optexport.v1.<name>``."""
    return _classes()[f"optexport.v1.{name}"]


@lru_cache(maxsize=1)
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    files = descriptor_pb2.FileDescriptorSet.FromString(
        Path(__file__).with_name("optexport.binpb").read_bytes()
    )
    # A pool of our own: the default one belongs to whatever else the process loads.
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return {
        f"{file.package}.{m.name}": message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{file.package}.{m.name}")
        )
        for file in files.file
        for m in file.message_type
    }
