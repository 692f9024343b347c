"""Locks of folders, and a package that imports where Unix's own modules are missing."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import psutil
import pytest

from embody.errors import UserError
from embody.run.memory import peak_memory_gib
from embody.saving.atomic_write import exclusive_lock

HOLD = """
import sys, time
from pathlib import Path
from embody.saving.atomic_write import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

# In an interpreter of its own: these modules are loaded in this one.
WITHOUT_UNIX = """
import importlib, pkgutil, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
import embody
apart = "embody.games.minecraft.simulator.server"  # runs beside MineRL, in another Python
names = [m.name for m in pkgutil.walk_packages(embody.__path__, "embody.") if m.name != apart]
assert "embody.games.minecraft.simulator.client" in names
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
from embody.cli.operating_system import keep_files_open
keep_files_open()
print(len(names))
"""


def test_every_module_is_imported_without_fcntl_and_resource() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_UNIX], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_a_locked_folder_refuses_others_until_its_process_ends_however(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout and holder.stdout.readline() == "held\n"
            link = tmp_path / "link"
            link.symlink_to(folder)
            for name in (folder, link):
                with pytest.raises(UserError, match=f"{name}: another process writes there: wait until it is done"):
                    with exclusive_lock(name):
                        pass
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    assert (tmp_path / ".data.lock").exists()  # left by the killed one: refuses nobody
    for _ in range(2):
        with exclusive_lock(folder):
            assert not list(folder.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "link"]


def test_a_file_system_without_locks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr("fcntl.flock", refuse)
            with exclusive_lock(tmp_path / "data"):
                pass
    with filelock.FileLock(tmp_path / ".data.lock", timeout=0), pytest.raises(UserError, match="another process"):
        with exclusive_lock(tmp_path / "data"):
            pass


def test_peak_memory_counts_what_was_freed_and_ended_children_once_a_worker() -> None:
    script = """
import subprocess, sys
from embody.run.memory import peak_memory_gib
subprocess.run([sys.executable, "-c", "x = bytearray(b'x') * int(2**29)"], check=True)
before, child = peak_memory_gib(0), (peak_memory_gib(2) - peak_memory_gib(0)) / 2
block = bytearray(b"x") * int((before + 1) * 2**30)  # `before` has the peak of the process that started this one
del block
print(peak_memory_gib(0) - before, child)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    own, child = map(float, done.stdout.split())
    assert 0.9 < own < 1.1 and 0.5 < child < 0.6


def test_without_the_kernels_peaks_psutil_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    resident = psutil.Process().memory_info().rss / 2**30
    assert peak_memory_gib(8) == pytest.approx(resident, rel=0.1)
