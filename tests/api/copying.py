"""Containers whose files are copied, for tests, and the archives that come out of them."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.busybox import import_image
from tests.daemon_fixture import Answer, Daemon

__all__ = [
    "PASSWD",
    "TAR",
    "get",
    "image",
    "members",
    "members_raw",
    "memory",
    "put",
    "sleeping",
    "stat_of",
    "stopped",
]

TAR = {"Content-Type": "application/x-tar"}
PASSWD = b"root:x:0:0::/:/bin/sh\nme:x:7:8::/:/bin/sh\n"


@pytest.fixture(autouse=True)
def image(daemon: Daemon) -> Iterator[None]:
    import_image(
        daemon,
        "cp:1",
        {
            "data": None, "data/file": b"hello\n", "data/sub": None, "data/link": "file",
            "etc/passwd": PASSWD, "tmp/abs": "/data/file", "tmp/rel": "../data",
        },
    )  # fmt: skip
    yield
    daemon.remove_all()
    daemon.post("/volumes/prune", filters='{"all":["true"]}')


def sleeping(daemon: Daemon, **settings: Any) -> str:
    return daemon.run("sleep", "1000", Image="cp:1", **settings)


def stopped(daemon: Daemon, **settings: Any) -> str:
    container = daemon.run("true", Image="cp:1", **settings)
    daemon.wait(container)
    return container


def get(daemon: Daemon, container: str, path: str) -> Answer:
    return daemon.request("GET", f"/containers/{container}/archive", query={"path": path})


def put(daemon: Daemon, container: str, path: str, data: bytes, **query: Any) -> Answer:
    return daemon.request(
        "PUT",
        f"/containers/{container}/archive",
        data,
        query={"path": path, **query},
        headers=TAR,
    )


def members(answer: Answer) -> dict[str, str]:
    assert answer.status == 200, answer.body
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        found = {}
        for info in archive:
            file = archive.extractfile(info) if info.isreg() else None
            text = file.read().decode(errors="replace") if file is not None else info.linkname
            found[info.name] = text
        return found


def stat_of(answer: Answer) -> Any:
    return json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))


def members_raw(answer: Answer) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        files = [info for info in archive if info.isreg()]
        return {i.name: f.read() for i in files if (f := archive.extractfile(i)) is not None}


def memory(daemon: Daemon) -> int:
    with open(f"/proc/{daemon.pid}/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
