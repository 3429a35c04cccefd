"""The text of a file: gzip is unpacked, and the encoding is detected and said."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from workbench import host_memory
from workbench.console import first_line
from workbench.errors import TaskError

GZIP = b"\x1f\x8b"  # the first bytes of every gzip file
AT_ONCE = 16_000_000  # bytes that are unpacked
MEMORY_A_BYTE = 6  # of text, as bytes, as letters and as rows
MARKS = {  # byte order marks, the longer ones first: that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
SPOKEN = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32-le": "UTF-32", "utf-32-be": "UTF-32"}
LOOKED_AT = 4096  # bytes in which UTF-16 without a mark is looked for
MANY_ZEROS = 0.3  # of every other byte: text in Latin letters has nearly only zeros there
SHOWN = 60  # characters of a line in a message


def unpacked(path: Path) -> bytes:
    """The bytes of a file, or of what a gzip file holds.

    Raises TaskError for a gzip file that is not whole, and for more than the memory of this computer holds as rows.
    """
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    if not packed:
        _check_size(path, path.stat().st_size)
        return path.read_bytes()
    content = bytearray()
    try:
        with gzip.open(path) as stream:
            while part := stream.read(AT_ONCE):
                content += part
                _check_size(path, len(content))
        return bytes(content)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path}: the gzip file is damaged ({first_line(error)}). Copy or pack it again.") from error


def _check_size(path: Path, size: int) -> None:
    if MEMORY_A_BYTE * size > host_memory.available():
        raise TaskError(
            f"{path}: {size / 1e9:.1f} GB or more of data, whose rows do not fit into the memory of this computer. "
            "Give a part of it."
        )


def read_text(path: Path) -> tuple[str, str]:
    """The text of a file, and a sentence on its encoding if that is not UTF-8.

    A byte order mark decides; then zeros at every other byte (UTF-16); then UTF-8; then Windows-1252, which nearly any
    bytes are, so that the sentence shows a line to check. Raises TaskError where none of them fits.
    """
    content = unpacked(path)
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return _decoded(path, content[len(mark) :], encoding), _said(encoding)
    if encoding := _utf_16(content):
        return _decoded(path, content, encoding), _said(encoding)
    try:
        return content.decode("utf-8"), ""
    except UnicodeDecodeError:
        text = _decoded(path, content, "cp1252", "neither UTF-8, UTF-16 nor Windows-1252 text")
    odd = next(line for line in text.splitlines() if not line.isascii())
    shown = odd if len(odd) <= SHOWN else f"{odd[: SHOWN - 3]}..."
    return text, f"not UTF-8, so it was read as Windows-1252; check this line: {shown!r}"


def _utf_16(content: bytes) -> str:
    """The kind of UTF-16 that bytes without a mark are, or nothing."""
    sample = content[:LOOKED_AT]
    for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[0::2])):
        if zeros and zeros.count(0) > MANY_ZEROS * len(zeros):
            return encoding
    return ""


def _decoded(path: Path, content: bytes, encoding: str, fault: str = "") -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        fault = fault or f"not the {SPOKEN.get(encoding, 'UTF-8')} text that it begins as"
        raise TaskError(f"{path}, line {row}: {fault}. Save the file with UTF-8 encoding.") from error


def _said(encoding: str) -> str:
    return f"read as {SPOKEN[encoding]}" if encoding in SPOKEN else ""
