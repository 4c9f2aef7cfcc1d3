"""A daemon of a test's own: its own roots, socket and cgroup parent, and nothing left of it.

``Daemon`` is for tests that start, kill and restart; the fixture ``daemon`` is one per module, for
those that only use it. Whatever a test does to it, ``close`` ends every container, the daemon,
the zygote and the monitors, and removes mounts, cgroups and directories.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import SampanError
from sampan.kernel import cgroups, links, routes
from sampan.kernel.mounts import mountinfo, umount
from sampan.kernel.nlmsg import Socket
from sampan.network.firewall import Firewall
from tests.compatibility.document import faults
from tests.compatibility.record import Watched

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DOCKER", "OLD_DOCKER", "Answer", "Daemon", "daemon", "own_root"]

DOCKER = shutil.which("docker", path="/usr/local/bin:/usr/bin") or ""
OLD_DOCKER = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else ""
READY_DEADLINE = 120.0
NOWHERE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
"""Tests pull from this machine only: the way to any other registry ends at once."""
_numbers = iter(range(1, 1_000_000))


class Answer:
    """An HTTP answer, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json()["message"])


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """See the module's text. ``root`` must exist; ``options`` go to the daemon as they are."""

    def __init__(self, root: Path, *options: str, debug: bool = True) -> None:
        self.root = root
        self.debug = debug
        self.options = options
        self.wrapper: tuple[str, ...] = ()
        self.data_root = root / "data"
        self.exec_root = root / "exec"
        self.socket = str(root / "s")
        self.host = f"unix://{self.socket}"
        self.cgroup = f"/sampan-test-{os.getpid()}-{next(_numbers)}"
        self.log = root / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watched = Watched(self.host, self.log)

    # -- the process ---------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Daemon:
        """Start, and wait until it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            # By a path: abstract names are another network namespace's own.
            path = self.root / "ready"
            path.unlink(missing_ok=True)
            ready.bind(str(path))
            self.spawn(NOTIFY_SOCKET=str(path))
            pidfd = os.pidfd_open(self.pid)
            try:
                readable, _, _ = select.select([ready.fileno(), pidfd], [], [], READY_DEADLINE)
            finally:
                os.close(pidfd)
            if ready.fileno() not in readable:
                raise AssertionError(f"the daemon did not start:\n{self.log.read_text()}")
        return self

    def spawn(self, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self.wrapper,
                    sys.executable,
                    "-m",
                    "sampan.daemon",
                    "--host",
                    self.host,
                    "--data-root",
                    str(self.data_root),
                    "--exec-root",
                    str(self.exec_root),
                    "--cgroup-parent",
                    self.cgroup,
                    *(["--debug"] if self.debug else []),
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **NOWHERE, **environment},
            )
        return self._process

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def zygotes(self) -> list[int]:
        """PIDs of the daemon's children: its zygote is the only one."""
        return [int(pid) for pid in _children(self.pid)]

    def monitor_of(self, container_id: str) -> int:
        """The PID of a running container's monitor: its init's parent."""
        pid = self.get(f"/containers/{container_id}/json").json()["State"]["Pid"]
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])

    # -- requests ------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
        judge: bool = True,
    ) -> Answer:
        """One request on a connection of its own; ``body`` is JSON unless it is bytes."""
        if query:
            path += "?" + urllib.parse.urlencode(query, doseq=True)
        sent = dict(headers or {})
        data: bytes | None = None
        if isinstance(body, bytes):
            data = body
        elif body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = _Connection(self.socket, timeout)
        try:
            connection.request(method, path, body=data, headers=sent)
            answer = Answer(connection.getresponse())
        finally:
            connection.close()
        if not judge:
            return answer
        # Every answer a test asks for is held against the API's document, whatever the test is for.
        media_type = answer.headers.get("Content-Type", "")
        plain = urllib.parse.unquote(path.partition("?")[0])
        wrong = faults(method, plain, answer.status, media_type, answer.body)
        assert not wrong, f"{method} {path}: {wrong[:5]}: {answer.body[:2000]!r}"
        return answer

    def get(self, path: str, **query: object) -> Answer:
        return self.request("GET", path, query=query)

    def post(self, path: str, body: object = None, **query: object) -> Answer:
        return self.request("POST", path, body, query=query)

    def delete(self, path: str, **query: object) -> Answer:
        return self.request("DELETE", path, query=query)

    def create(self, *command: str, name: str = "", **settings: Any) -> str:
        """Create a container of the host image without a network; its ID."""
        host = {"NetworkMode": "none", **settings.pop("HostConfig", {})}
        body = {"Image": "host", "Cmd": list(command), "HostConfig": host, **settings}
        answer = self.post("/containers/create", body, **({"name": name} if name else {}))
        assert answer.status == 201, answer.body
        return str(answer.json()["Id"])

    def run(self, *command: str, name: str = "", **settings: Any) -> str:
        """Create and start; the ID."""
        container = self.create(*command, name=name, **settings)
        answer = self.post(f"/containers/{container}/start")
        assert answer.status == 204, answer.body
        return container

    def state(self, container: str) -> dict[str, Any]:
        answer = self.get(f"/containers/{container}/json")
        assert answer.status == 200, answer.body
        return dict(answer.json()["State"])

    def wait(self, container: str) -> int:
        return int(self.post(f"/containers/{container}/wait").json()["StatusCode"])

    def logs(self, container: str, **query: object) -> str:
        """The log's text, both streams, without frames."""
        answer = self.get(f"/containers/{container}/logs", stdout=1, stderr=1, **query)
        assert answer.status == 200, answer.body
        text, data = b"", answer.body
        while data:
            length = int.from_bytes(data[4:8], "big")
            text, data = text + data[8 : 8 + length], data[8 + length :]
        return text.decode()

    def docker(
        self, *arguments: str, stdin: bytes | None = None, program: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run the real client against this daemon."""
        done = subprocess.run(
            [program or DOCKER, *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.root), "DOCKER_HOST": self.host},
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    # -- the end -------------------------------------------------------------------------------

    def remove_all(self) -> None:
        """Remove every container."""
        listed = self.request("GET", "/containers/json?all=1", judge=False)
        for container in listed.json():
            self.request("DELETE", f"/containers/{container['Id']}?force=1&v=1", judge=False)

    def close(self) -> None:
        """End everything, and leave nothing."""
        self._watched.collect()
        if self._process is not None and self._process.poll() is None:
            try:
                self.remove_all()
                self.stop()
            except (OSError, http.client.HTTPException, subprocess.TimeoutExpired):
                self.kill()
        hierarchy = cgroups.detect()
        for name in _names(self.exec_root / "containers") | _names(self.data_root / "containers"):
            group = hierarchy.group(f"{self.cgroup}/{name}")
            group.kill()
            group.destroy()
        hierarchy.group(self.cgroup).destroy()
        for row in reversed(mountinfo()):
            if row.mount_point.startswith(f"{self.root}/"):
                umount(row.mount_point, 2)
        self._remove_networks()
        shutil.rmtree(self.root, ignore_errors=True)

    def _remove_networks(self) -> None:
        """Bridges and rules of a daemon that was killed: those with its mark."""
        identity = self.data_root / "engine-id"
        if not identity.exists():
            return
        mark = identity.read_text().strip()
        with Socket() as netlink:
            left = [
                one.link
                for one in routes.link_states(netlink)
                if one.alias.startswith(f"sampan {mark} ")
            ]
            netlink.batch([links.delete_link(link) for link in left])
        Firewall(mark).remove()

    def leftovers(self, container: str) -> list[str]:
        """What is still there of a container, anywhere on this machine."""
        found = [row.mount_point for row in mountinfo() if container in row.mount_point]
        for mount_point in cgroups.detect().mounts.values():
            path = f"{mount_point}{self.cgroup}/{container}"
            found += [path] if os.path.exists(path) else []
        run_dir = self.exec_root / "containers" / container
        found += [str(run_dir)] if run_dir.exists() else []
        return found

    def wait_for(self, test: Any, seconds: float = 60) -> None:
        """Poll until ``test()`` is true: for what nobody announces to a test."""
        deadline = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < deadline, f"not in {seconds} s:\n{self.log.read_text()}"
            time.sleep(0.02)


def _children(pid: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has ended meanwhile
    return found


def _names(directory: Path) -> set[str]:
    return set(os.listdir(directory)) if directory.is_dir() else set()


def own_root(directory: Path) -> Path:
    """A new directory in ``directory``, for a daemon."""
    return Path(tempfile.mkdtemp(prefix="daemon-", dir=directory))


@pytest.fixture(scope="module")
def daemon(quick: Path) -> Iterator[Daemon]:
    """One daemon per module of tests; every test removes what it makes, or leaves it to the end."""
    one = Daemon(own_root(quick))
    try:
        yield one.start()
    finally:
        try:
            one.close()
        except SampanError as error:
            pytest.fail(f"the daemon left something behind: {error}")
