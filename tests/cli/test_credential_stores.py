"""Where a first login keeps a password: in the store that the system has, as docker login does."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_registries import Home, closed
from tests.daemon_fixture import Daemon, daemon
from tests.registry.registries import PASSWORD, USER, Registry

pytestmark = pytest.mark.root
__all__ = ["closed", "daemon"]

HELPERS = Path(__file__).parents[2] / ".cache/credential-helpers/usr/bin"
KEY = ("gpg", "--batch", "--passphrase", "", "--quick-gen-key", "tests", "future-default", "-", "0")


class Keyed(Home):
    """With pass(1) and its helper, as Debian has them."""

    keys: Path

    def environment(self) -> dict[str, str]:
        path = f"{self.place}/bin:{HELPERS}:{os.environ['PATH']}"
        return {**super().environment(), "PATH": path, "GNUPGHOME": str(self.keys)}

    def tell(self, *words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, env=self.environment())


@pytest.fixture
def keyed(tmp_path: Path, daemon: Daemon) -> Iterator[Keyed]:
    home = Keyed(tmp_path / "home", daemon)
    home.keys = Path(tempfile.mkdtemp(prefix="gpg", dir="/tmp"))  # for a socket's short path
    try:
        yield home
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False, env=home.environment())
        shutil.rmtree(home.keys)


def test_passwords_go_into_the_store_of_the_system(keyed: Keyed, closed: Registry) -> None:
    keyed.tell(*KEY)
    keyed.tell("pass", "init", "tests")
    done = keyed.sampan("login", "-u", USER, "--password-stdin", closed.address, stdin=PASSWORD)
    assert (done.returncode, done.stderr) == (0, "")
    assert keyed.saved() == {"auths": {closed.address: {}}, "credsStore": "pass"}
    again = keyed.docker("login", closed.address)
    assert again.returncode == 0, again.stderr
    assert keyed.docker("logout", closed.address).returncode == 0
    out = keyed.sampan("logout", closed.address)
    assert out.returncode == 0, out.stderr
    assert out.stdout == f"Not logged in to {closed.address}\n"
    for login, other in ((keyed.docker, keyed.sampan), (keyed.sampan, keyed.docker)):
        words = ("login", "-u", USER, "--password-stdin", closed.address)
        assert login(*words, stdin=PASSWORD).returncode == 0
        assert other("login", closed.address).returncode == 0
    assert PASSWORD not in keyed.config.read_text()


def test_a_store_that_does_not_answer_is_named_and_not_used(keyed: Keyed, closed: Registry) -> None:
    """Nobody has said "pass init": Docker's client fails here, after the login."""
    words = ("login", "-u", USER, "--password-stdin", closed.address)
    done = keyed.sampan(*words, stdin=PASSWORD)
    assert done.returncode == 0, done.stderr
    assert "docker-credential-pass store: " in done.stderr
    assert "Not used" in done.stderr
    assert "stored unencrypted" in done.stderr
    assert "credsStore" not in keyed.saved()


def test_who_has_credentials_in_the_file_keeps_them_there(keyed: Keyed, closed: Registry) -> None:
    keyed.config.write_text('{"auths": {"other.example": {"auth": "eDp5"}}}')
    words = ("login", "-u", USER, "--password-stdin", closed.address)
    done = keyed.sampan(*words, stdin=PASSWORD)
    assert done.returncode == 0
    assert "credsStore" not in keyed.saved()
    assert "docker-credential" not in done.stderr
