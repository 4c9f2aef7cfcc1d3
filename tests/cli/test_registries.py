"""pull, push, login, logout, commit and image prune, beside what Docker's own client does."""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_fixture import DOCKER, Daemon
from tests.image.archives import BASE, ONE, docker_save
from tests.registry.registries import PASSWORD, USER, Registry, put_image

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    one = Registry(tmp_path_factory.mktemp("closed"), password=True)
    yield one
    one.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    one = Registry(tmp_path_factory.mktemp("open"))
    yield one
    one.close()


class Home:
    """A user's configuration directory, and both clients in it."""

    def __init__(self, place: Path, daemon: Daemon) -> None:
        self.place = place
        self.config = place / "config.json"
        self._daemon = daemon
        (place / "bin").mkdir(parents=True)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.place}/bin:{os.environ['PATH']}",
            "HOME": str(self.place),
            "DOCKER_CONFIG": str(self.place),
            "DOCKER_HOST": self._daemon.host,
        }

    def sampan(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "-m", "sampan.cli"], argv, stdin)

    def docker(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self._run([DOCKER], argv, stdin)

    def _run(
        self, program: list[str], argv: tuple[str, ...], stdin: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environment(),
        )

    def saved(self) -> dict[str, object]:
        return dict(json.loads(self.config.read_text()))

    def helper(self, name: str) -> Path:
        """A credential helper that keeps everything in a file; its file."""
        store = self.place / f"{name}.json"
        store.write_text("{}")
        program = self.place / "bin" / f"docker-credential-{name}"
        program.write_text(
            f"""#!{sys.executable}
import json, sys
path = {str(store)!r}
kept = json.load(open(path))
verb, data = sys.argv[1], sys.stdin.read().strip()
if verb == "get":
    if data not in kept:
        print("credentials not found in native keychain")
        sys.exit(1)
    print(json.dumps(kept[data]))
elif verb == "store":
    kept[json.loads(data)["ServerURL"]] = json.loads(data)
elif verb == "erase":
    kept.pop(data, None)
json.dump(kept, open(path, "w"))
"""
        )
        program.chmod(0o755)
        return store


@pytest.fixture
def home(tmp_path: Path, daemon: Daemon) -> Home:
    return Home(tmp_path / "home", daemon)


def load(daemon: Daemon, name: str) -> None:
    answer = daemon.request("POST", "/images/load", docker_save([BASE, ONE], [name]))
    assert answer.status == 200


def test_pull_and_push_print_what_dockers_client_prints(
    home: Home, daemon: Daemon, registry: Registry
) -> None:
    put_image(registry, "cli/a", "latest", [BASE, ONE])
    name = f"{registry.address}/cli/a"

    def both(*argv: str) -> tuple[list[str], list[str]]:
        shown = []
        for client in (home.docker, home.sampan):
            daemon.delete(f"/images/{name}:latest")
            done = client(*argv)
            assert done.returncode == 0, done.stderr
            shown.append(sorted(line for line in done.stdout.splitlines() if "Waiting" not in line))
        return shown[0], shown[1]

    for argv in (("pull", name), ("pull", "-q", f"{name}:latest"), ("pull", "-a", name)):
        theirs, ours = both(*argv)
        if "-a" in argv:
            theirs = [line.removesuffix(name) or name for line in theirs]
        assert [line for line in ours if line != name] == [line for line in theirs if line != name]
    daemon.post(f"/images/{name}:latest/tag", repo=f"{registry.address}/cli/b", tag="1")
    for argv in (("push", name), ("push", "-q", name), ("push", "-a", f"{registry.address}/cli/b")):
        docker, sampan = home.docker(*argv), home.sampan(*argv)
        assert (docker.returncode, sampan.returncode) == (0, 0), sampan.stderr
        assert _steady(sampan.stdout) == _steady(docker.stdout)


def _steady(text: str) -> list[str]:
    """Lines without the states whose order is the network's."""
    words = ("Waiting", "Preparing", "exists", "Mounted", "Pushed")
    return [line for line in text.splitlines() if not any(word in line for word in words)]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("pull", "-a", "x:1"), "tag can't be used with --all-tags/-a"),
        (("push", "-a", "x:1"), "tag can't be used with --all-tags/-a"),
        (("push", "x@sha256:" + "a" * 64), "by its tag"),
        (("pull", "a//b"), "invalid reference format"),
        (("login", "-p", "x", "--password-stdin"), "mutually exclusive"),
        (("login", "--password-stdin"), "Must provide --username"),
        (("login", "127.0.0.1:1"), "non TTY"),
    ],
)
def test_what_contradicts_itself_is_refused(home: Home, argv: tuple[str, ...], words: str) -> None:
    done = home.sampan(*argv)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr


def test_credentials_of_either_client_hold_for_both(
    home: Home, daemon: Daemon, closed: Registry
) -> None:
    name = f"{closed.address}/mine:1"
    load(daemon, name)
    assert "no basic auth credentials" in home.sampan("push", name).stderr
    for login, other in ((home.sampan, home.docker), (home.docker, home.sampan)):
        done = login("login", "-u", USER, "--password-stdin", closed.address, stdin=PASSWORD + "\n")
        assert (done.returncode, "Login Succeeded" in done.stdout) == (0, True), done.stderr
        assert "stored unencrypted" in done.stderr
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        assert home.saved()["auths"] == {closed.address: {"auth": auth}}
        assert home.config.stat().st_mode & 0o777 == 0o600
        assert other("push", name).returncode == 0
        again = other("login", closed.address)
        assert (again.returncode, "Login Succeeded" in again.stdout) == (0, True), again.stderr
        out = login("logout", closed.address)
        assert f"Removing login credentials for {closed.address}" in out.stdout
        assert home.saved().get("auths", {}) == {}
    assert f"Not logged in to {closed.address}" in home.sampan("logout", closed.address).stdout


def test_a_wrong_password_is_said_and_not_kept(home: Home, closed: Registry) -> None:
    done = home.sampan("login", "-u", USER, "-p", "wrong", closed.address)
    assert done.returncode == 1
    assert "Using --password via the CLI is insecure" in done.stderr
    assert "incorrect username or password" in done.stderr
    assert not home.config.exists()


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_keeps_them_instead(
    home: Home, daemon: Daemon, closed: Registry, key: str
) -> None:
    store = home.helper("tests")
    other: object = "tests" if key == "credsStore" else {closed.address: "tests"}
    home.config.write_text(json.dumps({key: other, "psFormat": "kept"}))
    name = f"{closed.address}/helped:1"
    load(daemon, name)
    for login, pushes in ((home.sampan, home.docker), (home.docker, home.sampan)):
        done = login("login", "-u", USER, "--password-stdin", closed.address, stdin=PASSWORD)
        assert (done.returncode, "unencrypted" in done.stderr) == (0, False), done.stderr
        kept = json.loads(store.read_text())[closed.address]
        assert (kept["Username"], kept["Secret"]) == (USER, PASSWORD)
        assert PASSWORD not in home.config.read_text()
        assert home.saved()["psFormat"] == "kept"
        assert pushes("push", name).returncode == 0
        assert login("logout", closed.address).returncode == 0
        assert json.loads(store.read_text()) == {}


def test_a_helper_that_is_not_there_is_named(home: Home, closed: Registry) -> None:
    home.config.write_text('{"credsStore": "absent"}')
    done = home.sampan("pull", f"{closed.address}/x:1")
    assert done.returncode == 1
    assert "docker-credential-absent" in done.stderr and "config.json" in done.stderr


def test_the_password_is_asked_for_without_an_echo(home: Home, closed: Registry) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sampan.cli", "login", closed.address],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=home.environment(),
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    def until(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            seen += os.read(ours, 1000)

    until(b"Username: ")
    os.write(ours, USER.encode() + b"\n")
    until(b"Password: ")
    os.write(ours, PASSWORD.encode() + b"\n")
    until(b"Login Succeeded")
    assert process.wait(60) == 0
    os.close(ours)
    assert PASSWORD.encode() not in seen


def test_run_fetches_what_is_missing_with_the_credentials(
    home: Home, daemon: Daemon, closed: Registry
) -> None:
    from tests.storage.drivers.layers import layer

    root = layer({"./": None, "bin/": None, "bin/sh": Path("/bin/busybox").read_bytes()}, 0o755)
    name = f"{closed.address}/run:1"
    daemon.request("POST", "/images/load", docker_save([root], [name]))
    home.sampan("login", "-u", USER, "--password-stdin", closed.address, stdin=PASSWORD)
    assert home.sampan("push", "-q", name).stdout == f"{name}\n"
    daemon.delete(f"/images/{name}")
    ran = home.sampan("run", "--rm", "--network", "none", name, "/bin/sh", "-c", "echo here")
    assert (ran.returncode, ran.stdout) == (0, "here\n"), ran.stderr
    assert f"Unable to find image '{name}' locally" in ran.stderr
    assert f"Status: Downloaded newer image for {name}" in ran.stderr


def test_commit_and_image_prune(home: Home, daemon: Daemon) -> None:
    load(daemon, "base:9")
    made = daemon.create("sh", Image="base:9")
    done = home.sampan(
        "commit", "-a", "A", "-m", "m", "-c", "ENV X=1", "--pause=false", made, "c:2"
    )
    assert done.returncode == 0, done.stderr
    shown = daemon.get("/images/c:2/json").json()
    assert done.stdout == f"{shown['Id']}\n"
    assert (shown["Author"], shown["Comment"]) == ("A", "m")
    assert "X=1" in shown["Config"]["Env"]
    assert home.sampan("container", "commit", made).stdout.startswith("sha256:")
    asked = home.sampan("image", "prune", stdin="n\n")
    assert "This will remove all dangling images." in asked.stdout
    pruned = home.sampan("image", "prune", "-f")
    assert "deleted: sha256:" in pruned.stdout
    assert pruned.stdout.endswith("Total reclaimed space: 0B\n")
    theirs = home.docker("image", "prune", "-f").stdout
    assert home.sampan("image", "prune", "-f").stdout == theirs
