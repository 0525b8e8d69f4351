"""Weight files: whole, unaltered, and safetensors only, whose format can hold no code.

A folder that was published has a SHA256SUMS beside its model_index.json (`sha256sum -c SHA256SUMS` checks it as well).
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from sisrm.errors import WeightsError

CHECKSUMS = "SHA256SUMS"
"""Name of the file of checksums, in the pipeline's folder."""

_LARGEST_HEADER = 100_000_000  # the safetensors format's own limit, in bytes


def write_checksums(folder: Path) -> Path:
    """Write the checksums of all weight files in a pipeline's folder; returns the file written."""
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in weight_files(folder)]
    target = folder / CHECKSUMS
    target.write_text("".join(lines), encoding="utf-8")
    return target


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a pipeline's folder, sorted by name."""
    return sorted(folder.glob("*/*.safetensors"))


def check_weights(folder: Path) -> None:
    """Check that every weight file is whole and, in a published folder, the one that was published.

    Args:
        folder: of a pipeline.

    Raises:
        WeightsError: naming the file that is cut short, altered or missing.
    """
    for path in weight_files(folder):
        _check_length(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    if (folder / CHECKSUMS).is_file():
        for name, digest in _read_checksums(folder).items():
            if not (folder / name).is_file():
                raise WeightsError(f"{folder.name}/{name}: the file is missing; it is listed in {CHECKSUMS}")
            if _digest(folder / name) != digest:
                raise WeightsError(
                    f"{folder.name}/{name}: the file is damaged or was changed: its checksum is not the one in {CHECKSUMS}"
                )


def _read_checksums(folder: Path) -> dict[str, str]:
    """Name in the folder -> SHA-256 in hexadecimal digits."""
    found = {}
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or ".." in Path(name).parts or Path(name).is_absolute():
            raise WeightsError(f"{folder.name}/{CHECKSUMS}: expected lines of a SHA-256, two spaces and a file's name")
        found[name] = digest
    return found


def _check_length(path: Path, name: str) -> None:
    """Compare the file's size with what its header says; the header is at most some kilobytes."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
        header = stream.read(length) if length <= min(_LARGEST_HEADER, size) else b""
    try:
        tensors = json.loads(header)
        data = max((entry["data_offsets"][1] for key, entry in tensors.items() if key != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(f"{name}: the file is damaged: it has no readable safetensors header") from error
    if size != 8 + length + data:
        raise WeightsError(f"{name}: the file has {size:,} bytes where its header asks for {8 + length + data:,}")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
