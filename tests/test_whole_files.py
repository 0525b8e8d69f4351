"""Files that are written whole: what a killed writer leaves goes with the next one, what another process writes stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from launching import environment

from sisrm.whole_files import written_whole

WRITER = """
import sys, time
from pathlib import Path
from sisrm.whole_files import written_whole
with written_whole(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def write(path, content: bytes) -> None:
    with written_whole(path) as stream:
        stream.write(content)


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing a.png."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a.png")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def test_the_rest_of_a_killed_writer_goes_and_that_of_a_living_one_stays(writer, tmp_path):
    (rest,) = tmp_path.iterdir()
    write(tmp_path / "a.png", b"mine")
    assert rest.exists() and (tmp_path / "a.png").read_bytes() == b"mine"
    writer.kill()
    writer.wait()
    write(tmp_path / "b.png", b"another target")
    assert rest.exists()
    write(tmp_path / "a.png", b"again")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"] and (tmp_path / "a.png").read_bytes() == b"again"


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path):
    write(tmp_path / "a.png", b"old")
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a.png") as stream:
        stream.write(b"new")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == b"old"


def test_the_longest_name_of_a_file_system_can_be_written(tmp_path):
    write(tmp_path / ("a" * 251 + ".png"), b"x")
    assert os.listdir(tmp_path) == ["a" * 251 + ".png"]
