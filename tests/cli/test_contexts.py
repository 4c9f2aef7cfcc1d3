"""Contexts: the same words with Docker's client and ours say the same and leave the same files."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.cli.canned import Canned
from tests.daemon.certificates import make_certificates
from tests.daemon_fixture import DOCKER

OURS = [sys.executable, "-m", "sampan.cli"]
SCRIPT = """
ls
create xx --description hey --docker host=tcp://127.0.0.1:1
create yy --from xx
create xx
create x
create default
use xx
use nope
ls
ls -q
ls --format json
ls --format {{.Name}}|{{.Current}}|{{.DockerEndpoint}}|{{.Error}}
ls --format table\\t{{.Name}}\\t{{.Description}}
inspect xx
inspect
inspect nope
inspect -f {{.Name}}{{.Endpoints.docker.Host}} xx yy
show
rm xx
rm nope
rm default
rm -f xx
show
update yy --description new
update nope
export yy
export yy
import zz yy.dockercontext
import zz yy.dockercontext
import qq /nope
import qq broken
create ee --docker host=foo
create ee --docker host=tcp://1.2.3.4:2376,ca=/nope
create ee --docker host=tcp://1.2.3.4:2376,ca=broken
create ww --docker host=ssh://u@h/run/x
create tt --docker host=tcp://1.2.3.4:2376,ca=pki/ca.pem,cert=pki/client/cert.pem,key=pki/client/key.pem
create ss --docker host=tcp://1.2.3.4:2376,skip-tls-verify=true
inspect tt ss
export tt
import t2 tt.dockercontext
inspect -f {{.TLSMaterial}} t2
use yy
create aa
create bb --from tt
inspect aa bb
use default
use default
update yy --docker host=unix:///x
inspect yy
ls
""".strip().splitlines()


def call(
    program: list[str], home: Path, words: list[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *words],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=home,
    )


def tree(home: Path) -> dict[str, str]:
    """The files of a configuration directory: their modes and contents."""
    found = {}
    for path in sorted((home / ".docker").rglob("*")):
        if path.is_file():
            text = path.read_text()
            if path.name == "config.json":
                text = json.dumps({**json.loads(text), "auths": None})
            found[str(path.relative_to(home))] = f"{path.stat().st_mode:o} {text}"
    return found


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="needs Docker's client")
def test_a_life_of_contexts(tmp_path: Path) -> None:
    homes = [tmp_path / "theirs", tmp_path / "ours_"]
    said: list[list[str]] = [[], []]
    make_certificates(tmp_path / "pki")
    for home in homes:
        home.mkdir()
        (home / "pki").symlink_to(tmp_path / "pki")
        (home / "broken").write_text("nothing of the kind")
    for line in SCRIPT:
        for number, program in enumerate(([DOCKER], OURS)):
            done = call(program, homes[number], ["context", *line.split(" ")])
            output = done.stdout.replace(str(homes[number]), "HOME")
            output = output.replace("unix:///run/sampan/sampan.sock", "unix:///var/run/docker.sock")
            # Where our own socket's name is longer, so is its column.
            said[number].append(f"$ {line}\n{re.sub('  +', '  ', output)}= {done.returncode}\n")
    assert said[1] == said[0]
    assert tree(homes[1]) == tree(homes[0])


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="needs Docker's client")
def test_what_one_makes_the_other_uses(tmp_path: Path) -> None:
    server = Canned(tmp_path / "s")
    server.answers["GET /containers/json"] = (200, [])
    try:
        for maker, user in (([DOCKER], OURS), (OURS, [DOCKER])):
            name = f"ctx{len(maker)}"
            words = ["context", "create", name, "--docker", f"host={server.host}"]
            assert call(maker, tmp_path, words).returncode == 0
            assert call(maker, tmp_path, ["context", "use", name]).returncode == 0
            assert call(user, tmp_path, ["context", "show"]).stdout == f"{name}\n"
            server.requests.clear()
            assert call(user, tmp_path, ["ps"]).returncode == 0
            assert server.asked("GET", "/containers/json")
            assert call(user, tmp_path, ["context", "rm", "-f", name]).returncode == 0
    finally:
        server.close()


def test_the_environment_is_said_to_override(tmp_path: Path) -> None:
    call(OURS, tmp_path, ["context", "create", "yy", "--docker", "host=unix:///y"])
    for words in (["context", "use", "yy"], ["context", "ls"]):
        done = call(OURS, tmp_path, words, DOCKER_HOST="unix:///x")
        assert "DOCKER_HOST environment variable overrides" in done.stderr
    assert "default *" in done.stdout and "unix:///x" in done.stdout
    done = call(OURS, tmp_path, ["-l", "error", "context", "ls"], DOCKER_HOST="unix:///x")
    assert done.stderr == ""


def test_a_copy_of_an_endpoint_has_its_certificates(tmp_path: Path) -> None:
    make_certificates(tmp_path / "pki")
    docker = "host=tcp://h:2376,ca=pki/ca.pem"
    call(OURS, tmp_path, ["context", "create", "one", "--docker", docker])
    call(OURS, tmp_path, ["context", "create", "two", "--docker", "from=one"])
    assert "ca.pem" in call(OURS, tmp_path, ["context", "inspect", "two"]).stdout


def test_settings_of_others_are_kept(tmp_path: Path) -> None:
    place = tmp_path / ".docker"
    place.mkdir()
    (place / "config.json").write_text('{"auths": {"r": {"auth": "x"}}, "detachKeys": "ctrl-x"}')
    call(OURS, tmp_path, ["context", "create", "yy", "--docker", "host=unix:///y"])
    call(OURS, tmp_path, ["context", "use", "yy"])
    kept = json.loads((place / "config.json").read_text())
    assert kept == {"auths": {"r": {"auth": "x"}}, "detachKeys": "ctrl-x", "currentContext": "yy"}
    assert (place / "config.json").stat().st_mode & 0o777 == 0o600


def _tar(entries: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in entries.items():
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(data)
            member.linkname = "/etc/shadow"
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _zip(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


META = b'{"Name":"x","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///x"}}}'
GOOD = {"meta.json": META, "tls/docker/ca.pem": b"pem"}


@pytest.mark.parametrize("archive", [_tar(GOOD), _zip(GOOD)])
def test_an_archive_of_either_kind_is_taken(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "a").write_bytes(archive)
    assert call(OURS, tmp_path, ["context", "import", "yy", "a"]).returncode == 0
    assert "ca.pem" in call(OURS, tmp_path, ["context", "inspect", "yy"]).stdout


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"", "neither a tar nor a zip"),
        (b"junk" * 200, "neither a tar nor a zip"),
        (b"PK\x03\x04junk", "zip"),
        (_tar({}), "no context"),
        (_tar({"meta.json": b"{}"}), "no context"),
        (_tar({"meta.json": b"[1]"}), "no context"),
        (_tar({"meta.json": b""}, tarfile.SYMTYPE), "no context"),
        (b"\0" * (11 << 20), "larger than a context"),
    ],
)
def test_what_is_no_context_is_refused(tmp_path: Path, archive: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(archive)
    done = call(OURS, tmp_path, ["context", "import", "yy", "a"])
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert call(OURS, tmp_path, ["context", "ls", "-q"]).stdout == "default\n"


def test_an_import_writes_nothing_but_the_three_files(tmp_path: Path) -> None:
    """Names in the archive are looked up, never followed (class of CVE-2018-15664)."""
    (tmp_path / "a").write_bytes(_tar({**GOOD, "../../evil": b"x", "tls/docker/other.pem": b"y"}))
    assert call(OURS, tmp_path, ["context", "import", "yy", "a"]).returncode == 0
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"a", "meta.json", "ca.pem"}
