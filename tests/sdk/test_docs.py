"""Every block of code in docs/sdk.md is executed, in order."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.conftest import sessions

pytestmark = pytest.mark.root

PAGE = Path(__file__).resolve().parents[2] / "docs/sdk.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


# A daemon's own place, for whoever begins one: in a mount namespace, it is somewhere else.
ELSEWHERE = (
    "from sampan.kernel.mounts import MS_PRIVATE, MS_REC, mount\n"
    "from sampan.kernel.namespaces import CLONE_NEWNS, unshare\n"
    "unshare(CLONE_NEWNS)\nmount(None, '/', None, MS_REC | MS_PRIVATE)\n"
    "for place in ('/run', '/var/lib'): mount('tmpfs', place, 'tmpfs')\n"
)
END = (
    "\nimport os, signal\n"
    "daemon = int(open('/run/sampan/sampan.pid').read())\n"
    "end = os.pidfd_open(daemon)\n"
    "os.kill(daemon, signal.SIGTERM)\n"
    "import select\nselect.select([end], [], [], 20)\n"
)


def run(data_root: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SAMPAN_DATA_ROOT": str(data_root)},
        cwd=data_root,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sessions(data_root) == []


def test_the_page_has_blocks() -> None:
    assert [kind for kind, _ in BLOCKS].count("pycon") >= 4
    assert [kind for kind, _ in BLOCKS].count("python") >= 4


@pytest.mark.parametrize("code", [code for kind, code in BLOCKS if kind == "python"])
def test_a_program(tmp_path: Path, code: str) -> None:
    place = tmp_path / (code.splitlines()[0].removeprefix("# ") if code[0] == "#" else "program.py")
    if "connect()" in code:
        code = ELSEWHERE + code + END
    place.write_text(code)
    if place.name.startswith("test_"):
        run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place))
    else:
        run(tmp_path, "-W", "error", str(place))


def test_the_sessions_of_a_terminal(tmp_path: Path) -> None:
    text = "\n".join(code for kind, code in BLOCKS if kind == "pycon")
    assert len(doctest.DocTestParser().get_examples(text)) > 8
    (tmp_path / "page.txt").write_text(text)
    code = (
        "import doctest, sys\n"
        "failed, tried = doctest.testfile('page.txt', module_relative=False, "
        "optionflags=doctest.ELLIPSIS)\nsys.exit(bool(failed))"
    )
    run(tmp_path, "-c", code)
