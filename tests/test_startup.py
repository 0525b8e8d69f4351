"""How a process starts: imports without garbage collection, few heaps for many threads."""

import gc
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sisrm.startup import swift_imports

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    gc.enable()
    gc.unfreeze()


def test_collection_is_paused_inside_and_what_came_is_frozen():
    gc.unfreeze()
    with swift_imports():
        assert not gc.isenabled()
        with swift_imports():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 1000


def test_an_error_leaves_collection_on():
    with pytest.raises(ImportError), swift_imports():
        raise ImportError("missing")
    assert gc.isenabled()


def test_a_program_without_collection_keeps_it_off():
    gc.disable()
    gc.unfreeze()
    with swift_imports():
        pass
    assert not gc.isenabled() and gc.get_freeze_count() == 0


GROW = """
import sys, threading
from sisrm.startup import few_arenas

if sys.argv[1] == "few":
    assert few_arenas()

def work():
    blocks = [bytes(100_000) for _ in range(20)]  # small enough for a heap: larger ones are mapped by themselves
    barrier.wait()

for _ in range(3):
    barrier = threading.Barrier(16)
    threads = [threading.Thread(target=work) for _ in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
print(sum(line.split()[0].split("-")[0].endswith("000000") and line.split()[1] == "rw-p" for line in open("/proc/self/maps")))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_share_few_heaps():
    """Heaps of threads begin at multiples of 64 MB."""
    found = {}
    for kind in ("many", "few"):
        done = subprocess.run([sys.executable, "-c", GROW, kind], cwd=ROOT, capture_output=True, text=True, check=True)
        found[kind] = int(done.stdout)
    assert found["few"] <= 3 < found["many"]


KEPT = """
from sisrm.startup import trim_heaps

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

blocks = [bytes(50_000) for _ in range(4000)]  # 200 MB, each too small to be mapped by itself
between = [bytes(blocks[0][:100]) for _ in range(10)]
kept = blocks[::400]
del blocks
before = resident()
assert trim_heaps()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", KEPT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 100
