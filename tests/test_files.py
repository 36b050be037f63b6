"""files.py: real processes, one of them killed; folders that cannot be used."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xmc_jax import files
from xmc_jax.errors import UserError
from xmc_jax.files import check_space, only_one

HOLD = """
import sys, time
from xmc_jax.files import only_one
with only_one(sys.argv[1], "training in"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "in\n"
    with pytest.raises(UserError) as caught, only_one(tmp_path, "training in"):
        pass
    assert f"process {child.pid} on " in str(caught.value)
    assert f"is training in {tmp_path}; let it end, or choose another" in str(caught.value)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    for _ in range(2):  # And the lock ends with its block.
        with only_one(tmp_path, "training in"):
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_folder_that_takes_no_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/run/.lock: Not a directory"):
        with only_one(tmp_path / "file" / "run", "training in"):
            pass


def test_buckets_have_no_lock_and_a_notice_says_so(capsys):
    with only_one("gs://bucket/run", "training in"):
        pass
    assert "notice: gs://bucket/run cannot be locked" in capsys.readouterr().err


def test_a_disk_without_room_is_refused_and_buckets_are_not(tmp_path):
    with pytest.raises(UserError, match="needs 1000000000000 MB in .*; make room, or less"):
        check_space(tmp_path / "not" / "yet", 10**18, task="the task", mend=", or less")
    check_space(tmp_path / "not" / "yet", 1, task="the task", mend="")
    check_space("gs://bucket/run", 10**18, task="the task", mend="")


def test_places_of_no_known_kind_are_refused():
    for check in (files.check_kind, files.check_address, files.ensure_writable):
        with pytest.raises(UserError, match="gcs://a/b: there are no folders at gcs://"):
            check("gcs://a/b")
    for path in ("a/b", "gs://a/b", Path("a")):
        files.check_kind(path)
