"""Which test drove which operation and command, by which client, and what came of it.

Nobody has to say so. A daemon under test logs each request with its client's name and the answer's
status (``--debug``); after each test, what its daemons logged is its record. Programs are seen by
an audit hook: ``sampan``, and ``docker`` with a daemon under test as its host. A test that failed
has no record, and a run of everything fails when an operation that the engine serves has no check.
A run's records are merged into ``.cache/compatibility.json``, from which ``python -m
tests.compatibility`` writes ``docs/compatibility.md``.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

from sampan.api.docker.routing import KNOWN
from tests.compatibility.tables import OPERATIONS, command_of, operation_of

__all__ = ["CACHE", "Recorder", "Watched", "recorder", "unquoted"]

CACHE = Path(__file__).parents[2] / ".cache" / "compatibility.json"

_LINE = re.compile(
    rb'msg="request answered" method=(\w+) path=("(?:[^"\\]|\\.)*"|\S+) status=(\d+) '
    rb'client=("(?:[^"\\]|\\.)*"|\S*)'
)
_CLIENTS = (
    ("Docker-Client/20.", "docker 20.10"),
    ("Docker-Client/", "docker"),
    ("docker-sdk-python/", "docker-py"),
    ("docker-compose/", "docker-compose"),
    ("schemathesis/", "schemathesis"),
    ("Sampan-Client/", "sampan"),
    ("sampan-sdk/", "sampan SDK"),
)


def unquoted(text: bytes) -> str:
    return str(json.loads(text)) if text.startswith(b'"') else text.decode()


def _client(agent: str) -> str:
    return next((name for start, name in _CLIENTS if agent.startswith(start)), "HTTP")


class Watched:
    """A daemon's log, read on from where it was read before; ``host`` is where it listens."""

    def __init__(self, host: str, log: Path) -> None:
        self.host = host
        self._log = log
        self._place = 0
        recorder.watched.add(self)

    def collect(self) -> None:
        """What was logged since the last call belongs to the test that runs now."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._place)
                data = file.read()
        except FileNotFoundError:
            return
        data = data[: data.rfind(b"\n") + 1]
        self._place += len(data)
        self._note(data)

    def _note(self, data: bytes) -> None:
        for method, path, status, agent in _LINE.findall(data):
            row = operation_of(method.decode(), unquoted(path))
            if row is not None:
                recorder.add("operations", row.name, _client(unquoted(agent)), status.decode())


class _Key(NamedTuple):
    kind: str
    name: str
    client: str


class Recorder:
    """One run's records: test, then kind and name and client, then outcomes."""

    def __init__(self) -> None:
        self.watched: WeakSet[Watched] = WeakSet()
        self._records: dict[str, dict[_Key, set[str]]] = {}
        self._failed: set[str] = set()

    def add(self, kind: str, name: str, client: str, outcome: str) -> None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        if test:
            found = self._records.setdefault(test, {})
            found.setdefault(_Key(kind, name, client), set()).add(outcome)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """For ``sys.addaudithook``."""
        if event == "subprocess.Popen":
            _, words, _, environment = arguments
            self.command([os.fsdecode(word) for word in words], environment or os.environ)

    def command(self, words: list[str], environment: Any) -> None:
        """A client was started; programs other than clients of these daemons do not count."""
        program = os.path.basename(words[0])
        rest = words[1:]
        if words[1:3] == ["-m", "sampan.cli"]:
            program, rest = "sampan", words[3:]
        if program not in ("docker", "sampan"):
            return
        hosts = {one.host for one in self.watched}
        said = {environment.get("DOCKER_HOST"), environment.get("SAMPAN_HOST"), *rest}
        row = command_of([word for word in rest if word not in hosts])
        # Contexts and manifest lists are the client's alone: no daemon is asked.
        alone = row is not None and row.name.startswith(("context ", "manifest "))
        if program == "docker" and not hosts & said and not alone:
            return
        if row is not None:
            old = words[0] == "/usr/bin/docker"
            self.add("commands", row.name, "docker 20.10" if old else program, "")

    def after_test(self) -> None:
        for one in list(self.watched):
            one.collect()

    def failed(self, test: str) -> None:
        self._failed.add(test)

    def unchecked(self) -> list[str]:
        """Operations this engine serves that no test of this run got a good answer from."""
        later = {name for _, _, name in KNOWN}
        good = {
            key.name
            for test, found in self._records.items()
            if test not in self._failed
            for key, outcomes in found.items()
            if key.kind == "operations" and any(one[0] in "12" for one in outcomes)
        }
        return [
            row.name
            for row in OPERATIONS
            if row.owner == "engine" and row.name not in later and row.name not in good
        ]

    def save(self) -> None:
        """Merge this run into the file; a test's new record replaces its old one."""
        CACHE.parent.mkdir(exist_ok=True)
        with CACHE.with_suffix(".lock").open("w") as lock:  # other runs may end at this moment
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                known: dict[str, Any] = json.loads(CACHE.read_text())
            except (FileNotFoundError, ValueError):
                known = {}
            for test, found in self._records.items():
                known[test] = [[*key, sorted(outcomes)] for key, outcomes in sorted(found.items())]
            for test in self._failed:
                known.pop(test, None)
            temporary = CACHE.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(known, indent=0, sort_keys=True))
            temporary.rename(CACHE)


recorder = Recorder()
sys.addaudithook(recorder.audit)
