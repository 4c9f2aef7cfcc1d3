"""Memory that is given back is given back, and what comes after finds everything as it was."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import hashlib, re, ssl, zlib
from sampan.kernel.footprint import give_back, use_one_heap

def resident():
    with open("/proc/self/smaps_rollup") as file:
        sizes = dict(re.findall(r"(\\w+): +(\\d+) kB", file.read()))
    return int(sizes["Rss"]) - int(sizes["Anonymous"]), int(sizes["Anonymous"])

def work():
    return hashlib.sha256(b"x" * 100_000).hexdigest(), zlib.crc32(b"x"), len(ssl.OPENSSL_VERSION)

use_one_heap()
before, (files, anonymous) = work(), resident()
give_back()
files_after, anonymous_after = resident()
assert files_after < files * 0.7, (files, files_after)
assert anonymous_after > anonymous * 0.5, (anonymous, anonymous_after)
assert work() == before
"""


def test_pages_of_files_are_let_go_and_come_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
