"""Files that others made are read within bounds, and what is wrong with them is one line."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from embody.errors import UserError
from embody.saving.reading import read_bytes, read_npz

MIB = 2**20


def npy(shape: str, descr: str = "'|u1'", content: bytes = b"") -> bytes:
    """An array file whose header says what it likes."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def archive(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", content)
    return path


def test_arrays_survive(tmp_path: Path) -> None:
    arrays = {
        "numbers/a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "words": np.array(["a", "bcd"]),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "empty": np.zeros((0, 3)),
        "one": np.array(3),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
        read = read_npz(tmp_path / "a.npz", MIB)
        assert read.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(read[key], array)
            assert read[key].dtype == array.dtype and read[key].flags.writeable


BOMB = io.BytesIO()
np.save(BOMB, np.zeros(8 * MIB, np.uint8))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (BOMB.getvalue(), "its arrays take 8388736 bytes, at most 1048576 are read"),
        (npy("(1000000000000,)"), "differs from its 0 bytes"),
        (npy("(-1,)", content=b"x"), "cannot be read"),
        (npy("(10000000000000000000000,)"), "differs from its 0 bytes"),
        (npy("(1,)", "'|O'", b"x" * 8), "a.npy has type object, expected numbers or words"),
        (npy("(1,)", "[('a', '<i8')]", b"x" * 8), "expected numbers or words"),
        (npy("(0,)", "'|V0'"), "expected numbers or words"),
        (npy("(1000000000000,)", "'<U0'"), "expected numbers or words"),
        (b"\x93NUMPY\x09\x00", "cannot be read"),
        (npy("[" * 5000), "cannot be read"),
        (b"no array", "cannot be read"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:30],
)
def test_headers_that_lie_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UserError, match=rf"a\.npz: .*({says})"):
        read_npz(archive(tmp_path / "a.npz", content), MIB)


def test_an_archive_of_another_form_is_refused(tmp_path: Path) -> None:
    good = io.BytesIO()
    np.save(good, np.zeros(3))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(UserError, match="compression method"):
            read_npz(archive(tmp_path / "a.npz", good.getvalue(), method), MIB)
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as file:
        for number in range(20_000):
            file.writestr(f"{number:020}.npy", b"")
    with pytest.raises(UserError, match="many.npz: cannot be read .not an archive of arrays"):
        read_npz(tmp_path / "many.npz", MIB)
    for content in (b"", b"PK\5\6", archive(tmp_path / "a.npz", good.getvalue()).read_bytes()[:-1]):
        (tmp_path / "cut.npz").write_bytes(content)
        with pytest.raises(UserError, match="cut.npz: cannot be read"):
            read_npz(tmp_path / "cut.npz", MIB)


def test_every_flipped_byte_is_one_line_or_harmless(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(5), b=np.array(["x", "yz"]))
    good = (tmp_path / "a.npz").read_bytes()
    random, refused = np.random.default_rng(0), 0
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= int(random.integers(1, 256))
        (tmp_path / "a.npz").write_bytes(bad)
        try:
            read_npz(tmp_path / "a.npz", MIB)
        except UserError as error:
            assert str(error).isprintable()
            refused += 1
    assert refused > len(good) / 2


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("fifo", "a FIFO"), ("zero", "a device"), (".", "a folder")):
        with pytest.raises(UserError, match=f"it is {kind}, not a regular file"):
            read_bytes(tmp_path / name, MIB)
        with pytest.raises(UserError, match=f"it is {kind}, not a regular file"):
            read_npz(tmp_path / name, MIB)
    with pytest.raises(UserError, match="cannot be read .No such file"):
        read_bytes(tmp_path / "none", MIB)
