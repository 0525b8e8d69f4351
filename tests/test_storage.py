"""What lies on the server's disk is bounded in age and size, and nothing else is deleted."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest
from serving import served

from sisrm.errors import ParameterError
from sisrm.ui import storage as storage_module
from sisrm.ui.storage import BURST, FRESH_SECONDS, KEEP_SECONDS, MAX_MEGABYTES, MIN_FREE, Storage, max_bytes


@pytest.fixture
def put(tmp_path):
    """Makes a folder of `size` bytes, last changed `age` seconds ago."""
    made = iter(range(100))

    def make(age: float, size: int = 1000, name: str = ""):
        folder = tmp_path / (name or f"{next(made):064x}")
        (folder / "inside").mkdir(parents=True)
        (folder / "inside" / "a.png").write_bytes(b"0" * size)
        for path in (folder / "inside" / "a.png", folder / "inside", folder):
            os.utime(path, (time.time() - age,) * 2)
        return folder

    return make


def test_what_is_too_old_goes_at_the_start(put, tmp_path):
    old, young = put(KEEP_SECONDS + 60), put(KEEP_SECONDS - 60)
    Storage(tmp_path, most=10**9).start(every=3600)
    assert not old.exists() and young.exists()


def test_above_the_bound_the_oldest_go_first(put, tmp_path):
    folders = [put(age=100 + 10 * number, size=100_000) for number in range(6)]
    left = Storage(tmp_path, most=450_000).clean()
    assert [folder.exists() for folder in folders] == [True] * 4 + [False] * 2
    assert 400_000 <= left <= 450_000


def test_what_is_fresh_or_not_ours_stays(put, tmp_path):
    fresh, other = put(age=FRESH_SECONDS / 2, size=5000), put(age=10 * KEEP_SECONDS, name="somebody-else")
    (tmp_path / "note.txt").write_text("mine")
    linked = tmp_path / ("f" * 64)
    linked.symlink_to(other, target_is_directory=True)
    Storage(tmp_path, most=1).clean()
    assert fresh.exists() and other.exists() and linked.is_symlink() and (tmp_path / "note.txt").exists()


def test_it_goes_on_while_the_server_runs(put, tmp_path):
    storage = Storage(tmp_path, most=10**9)
    storage.start(every=0.05)
    old = put(KEEP_SECONDS + 60)
    deadline = time.monotonic() + 10
    while old.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not old.exists()


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert Storage(tmp_path / "none", most=1).clean() == 0


def test_the_bound_can_be_set(monkeypatch):
    monkeypatch.delenv("SISRM_STORAGE_MB", raising=False)
    assert max_bytes() == MAX_MEGABYTES * 2**20
    monkeypatch.setenv("SISRM_STORAGE_MB", "5")
    assert max_bytes() == 5 * 2**20
    for wrong in ("0", "-1", "much", "1.5"):
        monkeypatch.setenv("SISRM_STORAGE_MB", wrong)
        with pytest.raises(ParameterError, match="SISRM_STORAGE_MB"):
            max_bytes()


def test_the_folder_of_a_job_that_runs_stays(put, tmp_path):
    job = tmp_path / ("e" * 64)
    job.mkdir()
    os.utime(job, (time.time() - 120,) * 2)
    put(110, 100_000)
    put(109, 100_000)
    Storage(tmp_path, most=150_000).clean()
    assert job.exists() and sum(path.is_dir() for path in tmp_path.iterdir()) == 2
    os.utime(job, (1, 1))
    Storage(tmp_path, most=150_000).clean()
    assert not job.exists()


def test_the_upload_of_a_job_that_still_waits_stays(put, tmp_path):
    waits, other = put(KEEP_SECONDS + 60), put(100)
    Storage(tmp_path, most=1, needed=lambda: {waits.name}).clean()
    assert waits.exists() and not other.exists()


def test_the_rest_of_an_upload_that_came_to_no_end_goes(tmp_path, monkeypatch):
    rest, arriving, other, folder = (
        tmp_path / name for name in ("tmpab_1cd2e", "tmpabcdefgh", "tmpabc", "tmpzzzzzzzz")
    )
    for path in (rest, arriving, other):
        path.write_bytes(b"1")
    folder.mkdir()
    for path in (rest, other, folder):
        os.utime(path, (time.time() - FRESH_SECONDS - 1,) * 2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Storage(tmp_path, most=10**9).clean()
    assert rest.exists()  # in the system's own folder it may be another program's
    monkeypatch.undo()
    Storage(tmp_path, most=10**9).clean()
    assert not rest.exists() and all(path.exists() for path in (arriving, other, folder))


def test_uploads_are_refused_above_twice_the_bound_and_on_a_disk_that_is_nearly_full(put, tmp_path, monkeypatch):
    storage = Storage(tmp_path, most=BURST)
    assert storage.takes(1) and storage.takes(2 * BURST)  # let in, and counted
    assert not storage.takes(1)
    os.truncate(put(FRESH_SECONDS / 2) / "inside" / "a.png", BURST + 2**20)
    assert Storage(tmp_path, most=BURST).takes(1) and not Storage(tmp_path, most=1).takes(1)
    monkeypatch.setattr(storage_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=MIN_FREE - 1))
    assert not Storage(tmp_path, most=BURST).takes(1) and not Storage(tmp_path / "none", most=BURST).takes(1)


def test_the_server_cleans_what_an_earlier_run_left(tmp_path):
    old = tmp_path / ("a" * 64)
    old.mkdir()
    (old / "x").write_bytes(b"1")
    for path in (old / "x", old):
        os.utime(path, (1, 1))
    with served(tmp_path):
        assert not old.exists()
