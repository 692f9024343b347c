"""Reading files and arrays that others made: neither they nor the memory that they take exceed a bound."""

import math
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from embody.errors import UserError, one_line
from embody.saving.json_files import open_regular

__all__ = ["read_bytes", "read_npz"]

_DIRECTORY_BYTES = 2**20  # the list of an archive's members, which takes ten times as much in memory
_END = 22  # bytes of the record at the end of an archive that has no comment
# One thread at a time: numpy parses headers with `ast`, and Python 3.11 counts its recursion depth over all threads, so
# two at once may end in a SystemError (python/cpython#106905).
_NUMPY_LOCK = threading.Lock()
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What reading a damaged archive raises, unknown compression methods and deeply nested headers included.
_DAMAGED = (
    *(ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error),
    *(OverflowError, RecursionError, NotImplementedError, RuntimeError),
)


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; a `UserError` if it is another, or cannot be read."""
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise UserError(f"{path}: the file has more than {limit} bytes")
    return content


def read_npz(path: Path, limit: int) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` that take at most `limit` bytes together; a `UserError` says which member is wrong.

    No objects are unpickled. The memory that an array takes follows from the size of its member, not from its header.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(_with_short_directory(file)) as archive, _NUMPY_LOCK:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > limit:
                raise UserError(f"{path}: its arrays take {total} bytes, at most {limit} are read")
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({one_line(error, 200) or type(error).__name__})") from error


def _with_short_directory(file: IO[bytes]) -> IO[bytes]:
    """`file`, unless the list of members in this archive is longer than numpy writes it: then a `ValueError`."""
    file.seek(0, 2)
    file.seek(max(0, file.tell() - _END - 20))
    tail = file.read()
    end = tail[-_END:]
    if end[:4] != b"PK\5\6" or b"PK\6\7" in tail or int.from_bytes(end[12:16], "little") > _DIRECTORY_BYTES:
        raise ValueError("not an archive of arrays")
    return file


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"{member.filename}: compression method {member.compress_type}")
    with archive.open(member) as file:
        try:
            shape, is_fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        except Exception as error:  # numpy parses the text of a header as Python, which may raise anything
            raise ValueError(f"{member.filename}: the header of an array is damaged") from error
        if dtype.kind not in "biufU" or not dtype.itemsize:
            raise ValueError(f"{member.filename} has type {dtype}, expected numbers or words")
        content = bytearray(file.read(member.file_size))
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(content):
        raise ValueError(f"{member.filename}: shape {shape} of {dtype} differs from its {len(content)} bytes")
    return np.frombuffer(content, dtype, count).reshape(shape, order="F" if is_fortran else "C")
