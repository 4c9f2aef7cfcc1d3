"""The text that ps(1) shows of a process, in a fork of it too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sampan
from sampan.kernel.processes import stat_fields
from sampan.kernel.titles import set_process_title

SOURCE = str(Path(sampan.__file__).parents[1])
PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sampan.kernel.titles import find_arguments, set_process_title
find_arguments()
child = os.fork()
if child == 0:
    set_process_title(sys.argv[2])
    sys.stdout.buffer.write(open("/proc/self/cmdline", "rb").read())
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
print(b"find_arguments" in open("/proc/self/cmdline", "rb").read())
"""


@pytest.mark.parametrize(
    ("title", "shown"), [("sampan-init", b"sampan-init"), ("", b""), ("ü" * 5000, None)]
)
def test_a_fork_is_shown_as_its_title(title: str, shown: bytes | None) -> None:
    words = [sys.executable, "-I", "-S", "-c", PROGRAM, SOURCE, title[:100]]
    done = subprocess.run(words, capture_output=True, check=True)
    text, _, parents = done.stdout.rpartition(b"\n")[0].rpartition(b"\0")
    if shown is not None:
        assert text == shown
    else:
        assert text == ("ü" * 100).encode()
    assert parents == b"True", "the fork's alone"


def test_without_a_place_nothing_is_changed() -> None:
    before = Path("/proc/self/cmdline").read_bytes()
    set_process_title("another")
    assert Path("/proc/self/cmdline").read_bytes() == before
    assert len(stat_fields(os.getpid())) >= 47
