"""Equimo's archives, made of any members."""

import io
import tarfile
from collections.abc import Mapping

import lz4.frame


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return a `.tar.lz4` of these members, in their order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return bytes(lz4.frame.compress(stream.getvalue()))
