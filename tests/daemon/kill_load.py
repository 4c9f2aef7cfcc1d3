"""A mixed load of containers, and what must be true of it however often the daemon is killed.

Each ``Slot`` lives lives, one after the other: it does something to a container, and remembers what
the daemon has acknowledged. A request that gets no answer is asked about when the daemon is back:
it was done or it was not, and both are right; an answer that was given stays true. What is found
wrong is a sentence in ``Ledger.wrong``.

Used by ``test_kills`` (a dozen kills) and ``bench.kills`` (two hundred).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import sqlite3
import threading
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.kernel import cgroups
from sampan.kernel.mounts import mountinfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon_fixture import Daemon

__all__ = ["Ledger", "Load", "Slot", "groups", "leaks", "names", "processes"]

PATIENCE = 60.0
"""Seconds in which whatever was asked has happened, the daemon's absences included."""


class AwayError(Exception):
    """The daemon gave no answer: it was killed, or has not yet been started again."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Requests without any checks: an answer's status and body, or AwayError."""

    def __init__(self, daemon: Daemon) -> None:
        self._socket = daemon.socket

    def ask(
        self, method: str, path: str, body: object = None, **query: object
    ) -> tuple[int, bytes]:
        if query:
            path += "?" + urllib.parse.urlencode(query)
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        connection = _Connection(self._socket)
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise AwayError from error
        finally:
            connection.close()

    def insist(
        self, method: str, path: str, body: object = None, **query: object
    ) -> tuple[int, bytes]:
        """Ask until there is an answer: for what may be asked twice."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.ask(method, path, body, **query)
            except AwayError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.03)

    def inspect(self, container: str) -> dict[str, Any] | None:
        """What it is, or None when there is no such container."""
        status, body = self.insist("GET", f"/containers/{container}/json")
        return None if status == 404 else dict(json.loads(body))

    def log(self, container: str) -> str:
        status, data = self.insist("GET", f"/containers/{container}/logs", stdout=1, stderr=1)
        if status != 200:
            return f"status {status}: {data!r}"
        text = b""
        while data:
            length = int.from_bytes(data[4:8], "big")
            text, data = text + data[8 : 8 + length], data[8 + length :]
        return text.decode()


class Ledger:
    """What was acknowledged and what was found wrong, by all slots."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.wrong: list[str] = []
        self.lives: dict[str, int] = {}
        self.runs: dict[str, list[int]] = {}
        """Exit codes of the runs of each container that was started, in their order."""

    def complain(self, text: str) -> None:
        with self._lock:
            self.wrong.append(text)

    def lived(self, kind: str, container: str, codes: list[int]) -> None:
        with self._lock:
            self.lives[kind] = self.lives.get(kind, 0) + 1
            self.runs[container] = codes


class Slot(threading.Thread):
    """One container after the other, of kinds that chance decides."""

    def __init__(self, daemon: Daemon, ledger: Ledger, number: int, seed: int) -> None:
        super().__init__(daemon=True, name=f"slot {number}")
        self._client = Client(daemon)
        self._ledger = ledger
        self._number = number
        self._chance = random.Random(seed)
        self._lives = 0
        self.stopping = False

    KINDS = (
        "ends",
        "removes itself",
        "is stopped",
        "is executed in",
        "is frozen",
        "recurs",
        "fills",
    )

    def run(self) -> None:
        while not self.stopping:
            kind = self._chance.choice(self.KINDS)
            self._lives += 1
            self._label = f"slot{self._number}-{self._lives}"
            act: Callable[[], None] = getattr(self, "live_" + kind.replace(" ", "_"))
            try:
                act()
            except AwayError:
                self._wrong(kind, "the daemon did not come back")

    def _wrong(self, what: str, found: object) -> None:
        self._ledger.complain(f"{self._label}: {what}: {found}")

    # -- what lives are made of ------------------------------------------------------------------

    def _create(self, command: str, **host: object) -> str:
        """The container's ID. Under a name, so that one that was not acknowledged is found."""
        body = {
            "Image": "host",
            "Cmd": ["sh", "-c", command],
            "HostConfig": {"NetworkMode": "none", **host},
        }
        while True:
            try:
                status, answer = self._client.ask(
                    "POST", "/containers/create", body, name=self._label
                )
            except AwayError:
                shown = self._client.inspect(self._label)
                if shown is not None:
                    return str(shown["Id"])
                continue
            if status == 201:
                return str(json.loads(answer)["Id"])
            self._wrong("create", answer)
            raise AwayError

    def _start(self, container: str, gone_is_right: bool = False) -> bool:
        """Start it once; False when it has gone already."""
        while True:
            try:
                status, answer = self._client.ask("POST", f"/containers/{container}/start")
            except AwayError:
                # It was begun, or it was not: then it is as it was created.
                shown = self._client.inspect(container)
                if shown is None:
                    if not gone_is_right:
                        self._wrong("lost", container)
                    return False
                if shown["State"]["Status"] == "created":
                    continue
                return True
            if status not in (204, 304):
                self._wrong("start", answer)
            return status in (204, 304)

    def _await(self, container: str, status: str) -> dict[str, Any] | None:
        """Its state when that is ``status``; None after a complaint."""
        deadline = time.monotonic() + PATIENCE
        while True:
            shown = self._client.inspect(container)
            if shown is None:
                self._wrong("lost", f"{container} is not there, while {status} was waited for")
                return None
            if shown["State"]["Status"] == status:
                return shown
            if time.monotonic() > deadline:
                self._wrong(f"not {status}", shown["State"])
                return None
            time.sleep(0.03)

    def _ended(self, container: str, code: int) -> None:
        """It has ended, with this exit code."""
        shown = self._await(container, "exited")
        if shown is not None and (shown["State"]["ExitCode"], shown["State"]["Error"]) != (
            code,
            "",
        ):
            self._wrong(f"exit code {code}", shown["State"])

    def _said(self, container: str, text: str) -> None:
        found = self._client.log(container)
        if found != text:
            self._wrong(f"log {text!r}", repr(found))

    def _until_said(self, container: str, text: str) -> bool:
        deadline = time.monotonic() + PATIENCE
        while self._client.log(container) != text:
            if time.monotonic() > deadline:
                self._wrong(f"log {text!r} never came", repr(self._client.log(container)))
                return False
            time.sleep(0.03)
        return True

    def _remove(self, container: str) -> None:
        status, answer = self._client.insist("DELETE", f"/containers/{container}", force=1, v=1)
        deadline = time.monotonic() + PATIENCE
        while status == 409 and time.monotonic() < deadline:
            # A removal that the killed daemon's client asked for is being done.
            time.sleep(0.02)
            status, answer = self._client.insist("DELETE", f"/containers/{container}", force=1, v=1)
        if status not in (204, 404):
            self._wrong("remove", answer)
        if self._client.inspect(container) is not None:
            self._wrong("removed and still there", container)

    # -- kinds -----------------------------------------------------------------------------------

    def live_ends(self) -> None:
        code = self._chance.randrange(0, 120)
        pause = self._chance.choice(("0", "0.05", "0.3"))
        container = self._create(f"echo begin; sleep {pause}; echo end >&2; exit {code}")
        if self._start(container):
            self._ended(container, code)
            self._said(container, "begin\nend\n")
            self._ledger.lived("ends", container, [code])
        self._remove(container)

    def live_removes_itself(self) -> None:
        code = self._chance.randrange(0, 120)
        container = self._create(f"sleep 0.05; exit {code}", AutoRemove=True)
        self._start(container, gone_is_right=True)
        deadline = time.monotonic() + PATIENCE
        while self._client.inspect(container) is not None:
            if time.monotonic() > deadline:
                self._wrong("--rm", f"{container} is still there")
                return
            time.sleep(0.03)
        self._ledger.lived("removes itself", container, [code])

    def live_is_stopped(self) -> None:
        code = self._chance.randrange(1, 120)
        container = self._create(
            f"trap 'echo bye; exit {code}' TERM; echo up; while :; do sleep 0.02; done"
        )
        if self._start(container) and self._until_said(container, "up\n"):
            status, answer = self._client.insist("POST", f"/containers/{container}/stop", t=30)
            if status not in (204, 304):
                self._wrong("stop", answer)
            self._ended(container, code)
            self._said(container, "up\nbye\n")
            self._ledger.lived("is stopped", container, [code])
        self._remove(container)

    def live_is_executed_in(self) -> None:
        code = self._chance.randrange(1, 120)
        container = self._create("exec sleep 600")
        if self._start(container):
            self._execute(container, code)
            self._client.insist("POST", f"/containers/{container}/kill")
            self._ended(container, 137)
            self._ledger.lived("is executed in", container, [137])
        self._remove(container)

    def _execute(self, container: str, code: int) -> None:
        """An exec that was started runs and has its exit code, whoever asks for it."""
        body = {"Cmd": ["sh", "-c", f"sleep 0.1; exit {code}"]}
        while True:
            status, answer = self._client.insist("POST", f"/containers/{container}/exec", body)
            if status != 201:
                self._wrong("exec", answer)
                return
            instance = json.loads(answer)["Id"]
            try:
                status, answer = self._client.ask(
                    "POST", f"/exec/{instance}/start", {"Detach": True}
                )
            except AwayError:
                continue  # what was not started is not known to the next daemon
            if status == 404:
                continue  # the daemon died between the two
            break
        if status != 200:
            self._wrong("exec's start", answer)
            return
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status, answer = self._client.insist("GET", f"/exec/{instance}/json")
            if status != 200:
                self._wrong("exec lost", answer)
                return
            shown = json.loads(answer)
            if not shown["Running"]:
                if shown["ExitCode"] != code:
                    self._wrong(f"exec's exit code {code}", shown["ExitCode"])
                return
            time.sleep(0.03)
        self._wrong("exec without an end", instance)

    def live_is_frozen(self) -> None:
        container = self._create("echo up; exec sleep 600")
        if self._start(container):
            status, answer = self._client.insist("POST", f"/containers/{container}/pause")
            if status not in (204, 409):
                self._wrong("pause", answer)
            self._await(container, "paused")
            status, answer = self._client.insist("POST", f"/containers/{container}/unpause")
            if status not in (204, 409):
                self._wrong("unpause", answer)
            self._await(container, "running")
            # It may have been frozen before its first word.
            self._until_said(container, "up\n")
            self._client.insist("POST", f"/containers/{container}/kill")
            self._ended(container, 137)
            self._said(container, "up\n")
            self._ledger.lived("is frozen", container, [137])
        self._remove(container)

    def live_recurs(self) -> None:
        """A restart policy: as many runs as it says, whoever is there to start them."""
        policy = {"Name": "on-failure", "MaximumRetryCount": 2}
        container = self._create("echo run; exit 3", RestartPolicy=policy)
        if self._start(container):
            self._ended(container, 3)
            shown = self._client.inspect(container)
            if shown is not None and shown["RestartCount"] != 2:
                self._wrong("RestartCount 2", shown["RestartCount"])
            self._said(container, "run\n" * 3)
            self._ledger.lived("recurs", container, [3, 3, 3])
        self._remove(container)

    def live_fills(self) -> None:
        """A volume without a name, and a log of some size."""
        container = self._create(
            "i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo $i; done; echo kept > /data/file",
            Binds=["/data"],
        )
        if self._start(container):
            self._ended(container, 0)
            self._said(container, "".join(f"{number}\n" for number in range(1, 501)))
            self._ledger.lived("fills", container, [0])
        self._remove(container)


class Ticker:
    """A container that runs through everything, and writes a line every few milliseconds."""

    COMMAND = (
        "trap 'echo end $i; exit 42' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
    )

    def __init__(self, daemon: Daemon, number: int) -> None:
        self._client = Client(daemon)
        body = {
            "Image": "host",
            "Cmd": ["sh", "-c", self.COMMAND],
            "HostConfig": {"NetworkMode": "none"},
        }
        status, answer = self._client.ask(
            "POST", "/containers/create", body, name=f"ticker{number}"
        )
        assert status == 201, answer
        self.id = str(json.loads(answer)["Id"])
        status, answer = self._client.ask("POST", f"/containers/{self.id}/start")
        assert status == 204, answer
        self.pid = self._shown()["Pid"]

    def _shown(self) -> dict[str, Any]:
        shown = self._client.inspect(self.id)
        assert shown is not None
        return dict(shown["State"])

    def check(self, ledger: Ledger) -> None:
        """It runs, and is the process that it was."""
        shown = self._client.inspect(self.id)
        state = shown["State"] if shown is not None else None
        if state is None or (state["Status"], state["Pid"]) != ("running", self.pid):
            ledger.complain(f"ticker {self.id[:12]} of pid {self.pid} lost: {state}")

    def finish(self, ledger: Ledger) -> int:
        """Stop it; the lines of its log, none of which may be missing."""
        status, answer = self._client.ask("POST", f"/containers/{self.id}/stop", t=30)
        if status != 204:
            ledger.complain(f"ticker {self.id[:12]}: stop: {answer!r}")
        if self._shown()["ExitCode"] != 42:
            ledger.complain(f"ticker {self.id[:12]}: exit code 42: {self._shown()}")
        lines = self._client.log(self.id).splitlines()
        count = len(lines) - 1
        if lines != [*map(str, range(1, count + 1)), f"end {count}"]:
            wrong = next((i for i, line in enumerate(lines[:-1], 1) if line != str(i)), count)
            found = lines[wrong - 1 : wrong + 2]
            ledger.complain(
                f"ticker {self.id[:12]}: line {wrong} of {count} is {found}, the last {lines[-1:]}"
            )
        self._client.ask("DELETE", f"/containers/{self.id}", v=1)
        ledger.lived("ticks", self.id, [42])
        return count


class Load:
    """``tickers`` that run throughout, and slots that make up ``containers`` with them."""

    def __init__(self, daemon: Daemon, containers: int, tickers: int, seed: int) -> None:
        self.daemon = daemon
        self.ledger = Ledger()
        self.tickers = [Ticker(daemon, number) for number in range(tickers)]
        chance = random.Random(seed)
        self.slots = [
            Slot(daemon, self.ledger, number, chance.getrandbits(32))
            for number in range(containers - tickers)
        ]

    def start(self) -> None:
        for slot in self.slots:
            slot.start()

    def check(self) -> None:
        for ticker in self.tickers:
            ticker.check(self.ledger)

    def finish(self) -> int:
        """Let every life end; the number of lines that the tickers wrote."""
        for slot in self.slots:
            slot.stopping = True
        for slot in self.slots:
            slot.join(3 * PATIENCE)
            if slot.is_alive():
                self.ledger.complain(f"{slot.name} hangs")
        lines = sum(ticker.finish(self.ledger) for ticker in self.tickers)
        self._events()
        return lines

    def _events(self) -> None:
        """Each run of each container was told of once, with its exit code."""
        client = Client(self.daemon)
        filters = json.dumps({"type": ["container"], "event": ["start", "die"]})
        _, body = client.ask("GET", "/events", since=1, until=time.time(), filters=filters)
        told: dict[str, list[str]] = {}
        for line in body.splitlines():
            event = json.loads(line)
            code = event["Actor"]["Attributes"].get("exitCode", "")
            told.setdefault(event["id"], []).append(event["Action"] + code)
        for container, codes in self.ledger.runs.items():
            expected = [word for code in codes for word in ("start", f"die{code}")]
            if told.get(container, []) != expected:
                self.ledger.complain(
                    f"events of {container[:12]}: {told.get(container, [])}, not {expected}"
                )


# -- what is left ---------------------------------------------------------------------------------


def names(directory: Path) -> set[str]:
    return set(os.listdir(directory)) if directory.is_dir() else set()


def groups(daemon: Daemon) -> set[str]:
    """The cgroups of the daemon's containers, in any hierarchy."""
    found: set[str] = set()
    for mount in cgroups.detect().mounts.values():
        top = Path(f"{mount}{daemon.cgroup}")
        if top.is_dir():
            found |= {entry.name for entry in top.iterdir() if entry.is_dir()}
    return found


def processes(daemon: Daemon) -> set[int]:
    """Who is in one of the daemon's cgroups."""
    found = set()
    for mount in cgroups.detect().mounts.values():
        for place in Path(f"{mount}{daemon.cgroup}").glob("*/cgroup.procs"):
            with contextlib.suppress(OSError):  # it is being removed
                found |= set(map(int, place.read_text().split()))
    return found


def _rows(daemon: Daemon, table: str, column: str) -> set[str]:
    with contextlib.closing(
        sqlite3.connect(f"file:{daemon.data_root}/sampan.db?mode=ro", uri=True)
    ) as database:
        return {row[0] for row in database.execute(f"SELECT {column} FROM {table}")}


def _monitors(daemon: Daemon) -> set[str]:
    """Monitors that write to the daemon's log, but for the pair that waits."""
    waiting = {
        child
        for zygote in daemon.zygotes()
        for child in Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
    }
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (path / "comm").read_text().strip()
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            if name == "sampan-monitor" and os.readlink(path / "fd/2") == str(daemon.log):
                found |= set() if {path.name, parent} & waiting else {f"monitor {path.name}"}
    return found


def leaks(daemon: Daemon, living: set[str]) -> dict[str, set[str]]:
    """What is there, and belongs to none of the ``living`` containers."""
    root = str(daemon.root)
    found = {
        "rows": _rows(daemon, "containers", "id") - living,
        "volumes": _rows(daemon, "volumes", "name"),
        "directories": names(daemon.data_root / "containers") - living,
        "writable layers": names(daemon.data_root / "overlay2/rw") - living,
        "volumes' directories": names(daemon.data_root / "volumes") - {".trash"},
        "trash": names(daemon.data_root / "trash"),
        "run directories": names(daemon.exec_root / "containers") - living,
        "cgroups": groups(daemon) - living,
        "mounts": {row.mount_point for row in mountinfo() if root in row.mount_point},
        "monitors": _monitors(daemon) if not living else set(),
        "processes": set() if living else {str(pid) for pid in processes(daemon)},
    }
    return {what: which for what, which in found.items() if which}
