"""What a file says beside its pixels, looked through before Pillow makes Python objects of it.

EXIF blocks, the index of a camera's further pictures (MPF) and TIFF files are all directories of fields, and every field may point to the
same bytes or hold millions of numbers: a small file can ask for gigabytes. Here the fields are counted; none is decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL import AvifImagePlugin, JpegImagePlugin
from PIL.TiffImagePlugin import PREFIXES

from sisrm.errors import ImageError

MAX_SCANS = 200
"""Most scans of a JPEG. Encoders write about ten; every scan costs a pass over the whole picture, even an empty one."""

MAX_SEGMENTS = 2000
"""Most segments of a JPEG beside its scans. A colour profile takes up to 255, extended XMP some more."""

MAX_PADDING = 2**16
"""A JPEG segment may have any number of bytes 255 before it; a file with this many is refused."""

MAX_FIELDS = 2**16
"""Most fields of all directories of a file together."""

MAX_NUMBERS = 2**16
"""Most numbers in the fields of an EXIF block or an MPF index, and most fractions in a TIFF file. Bytes and text are not counted."""

MAX_TIFF_NUMBERS = 2**21
"""Most numbers in the fields of a TIFF file: each strip or tile has two."""

TIFF_STARTS = tuple(PREFIXES)
"""What Pillow takes for the start of a directory's file, wrong byte orders and large files among it."""

DESCRIPTION, ORIENTATION = 0x010E, 0x0112

_DIRECTORIES = {0x8769, 0x8825, 0xA005}  # fields that hold the place of another directory: EXIF, GPS, interoperability
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_INTEGERS = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q"}
_PLAIN, _FRACTIONS = (1, 2, 7), (5, 10)  # kept as one string of bytes or text; two numbers and an object each


class Field(NamedTuple):
    """One field: its data are block[start : start + size], which may reach beyond the block."""

    tag: int
    kind: int
    count: int
    start: int
    size: int
    order: str


def without_prefix(exif: bytes, source: str) -> bytes:
    """An EXIF block from its byte order on. Pillow copies the block for each repetition of the prefix: no more than a few are taken."""
    for _ in range(4):
        if not exif.startswith(b"Exif\0\0"):
            return exif
        exif = exif[6:]
    raise ImageError(source, "the image header is damaged: its metadata repeats its own start")


def fields(block: bytes, start: int | None = None) -> Iterator[Field]:
    """The fields of one directory of a block that begins with its byte order, as Pillow finds them.

    Args:
        block: a TIFF file, or an EXIF block without its prefix.
        start: where the directory is; the first one when None.
    """
    if not block.startswith(TIFF_STARTS):
        return
    order, large = "<" if block.startswith(b"II") else ">", block[2] == 43
    number, entry, inline = ("Q", struct.Struct(order + "HHQ"), 8) if large else ("L", struct.Struct(order + "HHL"), 4)
    counter = struct.Struct(order + ("Q" if large else "H"))
    try:
        if start is None:
            start = struct.unpack_from(order + number, block, 8 if large else 4)[0]
        entries = counter.unpack_from(block, start)[0]
    except (struct.error, OverflowError):
        return
    position, step = start + counter.size, entry.size + inline
    for _ in range(min(entries, (len(block) - position) // step)):
        tag, kind, count = entry.unpack_from(block, position)
        place = position + entry.size
        size = count * _BYTES.get(kind, 0)
        data = place if size <= inline else struct.unpack_from(order + number, block, place)[0]
        yield Field(tag, kind, count, data, size, order)
        position += step


def number_of(block: bytes, field: Field) -> int | None:
    """The first value of a field of integers; None for another kind or where it lies beyond the block."""
    form = _INTEGERS.get(field.kind)
    if form is None or field.count < 1 or field.start + field.size > len(block):
        return None
    return struct.unpack_from(field.order + form, block, field.start)[0]


def description_of(exif: bytes) -> str:
    """The text of an EXIF block's field ImageDescription; empty without one."""
    block = exif.removeprefix(b"Exif\0\0")
    for field in fields(block):
        if field.tag == DESCRIPTION and field.kind == 2:
            return block[field.start : field.start + field.size].rstrip(b"\0").decode("latin-1")
    return ""


def check_exif(exif: bytes, source: str) -> None:
    """Refuse an EXIF block whose fields hold far more than the block, or more numbers than any camera writes."""
    _check_directories(without_prefix(exif, source), MAX_NUMBERS, source)


def check_tiff(data: bytes, source: str) -> None:
    """The same for a TIFF file's first picture, whose strips may be many."""
    _check_directories(data, MAX_TIFF_NUMBERS, source)


def check_avif(data: bytes, source: str) -> None:
    """The same for an AVIF file. Its block may lie in pieces all over the file, so the decoder is asked for it; it decodes no pixel."""
    if not AvifImagePlugin.SUPPORTED or not AvifImagePlugin._accept(data[:16]):
        return
    try:
        exif = AvifImagePlugin._avif.AvifDecoder(data, "auto", 1).get_info()[4]
    except (ValueError, RuntimeError, SyntaxError, OSError):  # Pillow will come to the same
        return
    check_exif(exif or b"", source)


def check_jpeg(data: bytes, source: str) -> None:
    """Refuse a JPEG with very many segments or scans, or with EXIF or MPF fields that cost more than they should.

    Up to the first scan the markers are followed as Pillow does, which neither ends at an end of the picture nor gives the start of one a
    length; from there on as a decoder does, to the end of the picture: cameras put previews and videos behind it.
    """
    blocks, index, segments, position = [], b"", 0, 2
    while (position := data.find(b"\xff", position)) >= 0:
        padding = data[position : position + MAX_PADDING]
        rest = padding.lstrip(b"\xff")
        segments += 1
        if segments > MAX_SEGMENTS or (not rest and len(padding) == MAX_PADDING):
            raise ImageError(source, "the image header is damaged: it has too many segments")
        position += len(padding) - len(rest)
        if position >= len(data):
            break
        code = data[position]
        position += 1
        if code == 0xDA:
            break
        if code == 0:
            continue
        marker = JpegImagePlugin.MARKER.get(0xFF00 | code)
        if marker is None:  # Pillow gives up
            break
        if marker[2] is None:
            continue
        length = max(int.from_bytes(data[position : position + 2], "big"), 2)
        content = data[position + 2 : position + length]
        if code == 0xE1 and content.startswith(b"Exif\0\0"):
            blocks.append(content[6:] if blocks else content)
        elif code == 0xE2 and content.startswith(b"MPF\0"):
            index = content[4:]
        position += length
    if position > 0:
        _check_scans(data, position, segments, source)
    check_exif(b"".join(blocks), source)
    _check_directories(index, MAX_NUMBERS, source)


def _check_scans(data: bytes, position: int, segments: int, source: str) -> None:
    """Count what follows the marker of the first scan."""
    scans = 1
    position += int.from_bytes(data[position : position + 2], "big")
    while match := _MARKER.search(data, position):
        code, position = data[match.start() + 1], match.end()
        if code == 0xD9:
            break
        if code == 0xDA:
            scans += 1
            if scans > MAX_SCANS:
                raise ImageError(source, f"the image has more than {MAX_SCANS} scans; save it again as a plain JPEG")
        else:
            segments += 1
            if segments > MAX_SEGMENTS:
                raise ImageError(source, "the image header is damaged: it has too many segments")
        position += max(int.from_bytes(data[position : position + 2], "big"), 2)


def _check_directories(block: bytes, most_numbers: int, source: str) -> None:
    """Count the fields of the first directory and of those that it leads to; all of them may be read."""
    total = amount = numbers = fractions = 0
    waiting: list[int | None] = [None]
    seen: set[int | None] = {None}
    while waiting:
        for field in fields(block, waiting.pop()):
            total += 1
            place = number_of(block, field) if field.tag in _DIRECTORIES else None
            if place is not None and place > 0 and place not in seen:
                seen.add(place)
                waiting.append(place)
            if field.start + field.size > len(block):  # the reading ends there
                continue
            amount += field.size
            numbers += field.count if field.kind in _BYTES and field.kind not in _PLAIN else 0
            fractions += field.count if field.kind in _FRACTIONS else 0
            if total > MAX_FIELDS or numbers > most_numbers or fractions > MAX_NUMBERS:
                raise ImageError(source, "the image header is damaged: its metadata holds too many values")
            if amount > 2 * len(block) + 2**16:
                raise ImageError(source, "the image header is damaged: its metadata is said to be larger than the file")
