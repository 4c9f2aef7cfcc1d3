"""``sampan registry account``: a file of accounts without Apache's tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.registry.server.access.accounts import read_accounts


def account(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sampan.cli", "registry", "account", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_accounts_come_change_and_go(tmp_path: Path) -> None:
    path = tmp_path / "accounts"
    done = account("--password-stdin", str(path), "anna", stdin="one: two\n")
    assert (done.returncode, done.stdout) == (0, "Added: anna\n")
    assert "SIGHUP" in done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_accounts(str(path)).check("anna", "one: two")
    path.write_text("# ours\n" + path.read_text())
    path.chmod(0o640)
    assert account("--password-stdin", str(path), "ben", stdin="x").stdout == "Added: ben\n"
    assert account("--password-stdin", str(path), "anna", stdin="new").stdout == "Changed: anna\n"
    found = read_accounts(str(path))
    assert (found.check("anna", "new"), found.check("anna", "one: two")) == (True, False)
    assert found.check("ben", "x")
    assert path.read_text().startswith("# ours\n")
    assert path.stat().st_mode & 0o777 == 0o640
    assert account("--rm", str(path), "anna").stdout == "Removed: anna\n"
    assert read_accounts(str(path)).stamp("anna") == ""
    assert os.listdir(tmp_path) == ["accounts"]


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("--password-stdin", "FILE", "a:b"), "x", '"a:b" is not an account'),
        (("--password-stdin", "FILE", "#a"), "x", "is not an account"),
        (("--password-stdin", "FILE", " a"), "x", "is not an account"),
        (("--password-stdin", "FILE", "a"), "\n", "a password is needed"),
        (("--password-stdin", "FILE", "a"), "x" * 73, "longer than the 72 bytes"),
        (("FILE", "a"), "", "--password-stdin"),
        (("--rm", "FILE", "a"), "", "has no account a"),
        (("--rm", "--password-stdin", "FILE", "a"), "", "--rm"),
        (("--password-stdin", "FILE/x", "a"), "x", "FILE/x: No such file"),
    ],
)
def test_what_is_no_account_is_refused(
    tmp_path: Path, words: tuple[str, ...], stdin: str, said: str
) -> None:
    path = f"{tmp_path}/accounts"
    done = account(*(word.replace("FILE", path) for word in words), stdin=stdin)
    assert done.returncode == 1
    assert said.replace("FILE", path) in done.stderr
    assert os.listdir(tmp_path) == []
