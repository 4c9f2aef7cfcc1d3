"""A mixed load of containers, and what must be true of it whatever of ours is killed.

Each ``Slot`` lives lives, one after the other: it does something to a container, and remembers what
the daemon has acknowledged. A request that gets no answer is asked about when the daemon is back:
it was done or it was not, and both are right; an answer that was given stays true. What is found
wrong is a sentence in ``Ledger.wrong``.

A container whose own monitor was killed is excused from what it was to do, and has to be ended and
reported so. Who kills is ``killing``.

Used by ``test_kills`` (a dozen kills) and ``bench.kills`` (two hundred).
"""

from __future__ import annotations

import json
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from tests.daemon.kill_client import PATIENCE, AwayError, Client
from tests.daemon.killing import kill_monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon_fixture import Daemon

__all__ = ["Ledger", "Load", "Slot"]


class VictimError(Exception):
    """What goes wrong with a container whose monitor was killed is right."""


class Ledger:
    """What was acknowledged, who was killed, and what was found wrong, by all slots."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.wrong: list[str] = []
        self.lives: dict[str, int] = {}
        self.acts: dict[str, int] = {}
        """What was asked for and acknowledged, where a load counts that."""
        self.runs: dict[str, list[int]] = {}
        """Exit codes of the runs of each container that was started, in their order."""
        self.ids: set[str] = set()
        """Of all containers there were."""
        self.victims: set[str] = set()
        """Those whose monitors were killed."""
        self._nobodys: list[float] = []

    def complain(self, text: str) -> None:
        with self._lock:
            self.wrong.append(text)

    def doom(self, container: str) -> None:
        """Its monitor is about to be killed; without a name, one that may be getting a request."""
        with self._lock:
            if container:
                self.victims.add(container)
            else:
                self._nobodys.append(time.monotonic())

    def excuses(self, container: str, since: float) -> bool:
        """Whether its monitor was killed; one that had no name excuses one container."""
        with self._lock:
            if container in self.victims:
                return True
            later = next((moment for moment in self._nobodys if moment >= since), None)
            if later is None:
                return False
            self._nobodys.remove(later)
            self.victims.add(container)
            return True

    def acted(self, kind: str) -> None:
        with self._lock:
            self.acts[kind] = self.acts.get(kind, 0) + 1

    def lived(self, kind: str, container: str, codes: list[int] | None) -> None:
        """A life is over; ``codes`` are None where how often it ran is not certain."""
        with self._lock:
            self.lives[kind] = self.lives.get(kind, 0) + 1
            if codes is not None:
                self.runs[container] = codes


class Slot(threading.Thread):
    """One container after the other, of kinds that chance decides."""

    def __init__(self, daemon: Daemon, ledger: Ledger, number: int, seed: int) -> None:
        super().__init__(daemon=True, name=f"slot {number}")
        self._daemon = daemon
        self._client = Client(daemon)
        self._ledger = ledger
        self._number = number
        self._chance = random.Random(seed)
        self._lives = 0
        self.stopping = False
        self.others: list[str] = []
        """Containers that run throughout."""

    KINDS: tuple[str, ...] = (
        "ends",
        "removes itself",
        "is stopped",
        "is executed in",
        "answers",
        "is frozen",
        "recurs",
        "is restarted",
        "fills",
        "shares",
        "is removed",
        "loses its monitor",
    )

    def run(self) -> None:
        while not self.stopping:
            kind = self._chance.choice(self.KINDS)
            self._lives += 1
            self._label = f"slot{self._number}-{self._lives}"
            self._container, self._since = "", time.monotonic()
            act: Callable[[], None] = getattr(self, "live_" + kind.replace(" ", "_"))
            try:
                try:
                    act()
                except VictimError:
                    self._mourn()
            except AwayError:
                self._complain(kind, "the daemon did not come back")

    def _complain(self, what: str, found: object) -> None:
        self._ledger.complain(f"{self._label} {self._container[:12]}: {what}: {found}")

    def _wrong(self, what: str, found: object) -> None:
        if self._ledger.excuses(self._container, self._since):
            raise VictimError
        self._complain(what, found)

    def _mourn(self) -> None:
        """A container whose monitor was killed has ended, is reported so, and can be removed."""
        container = self._container
        if container:
            deadline = time.monotonic() + PATIENCE
            while (shown := self._client.inspect(container)) is not None:
                state = shown["State"]
                if state["Status"] == "created":
                    break  # it was not begun
                if state["Status"] == "exited":
                    code, error = state["ExitCode"], state["Error"]
                    known = "monitor" in error or "maker was killed" in error
                    if error and not (known and code in (126, 128, 137)):
                        self._complain("a victim's end", state)
                    break
                if time.monotonic() > deadline:
                    self._complain("a victim has not ended", state)
                    break
                time.sleep(0.03)
            self._remove(container)
        self._ledger.lived("is a victim", container, None)

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
                    return self._created(str(shown["Id"]))
                continue
            if status == 201:
                return self._created(str(json.loads(answer)["Id"]))
            self._complain("create", answer)
            raise AwayError

    def _created(self, container: str) -> str:
        self._ledger.ids.add(container)
        self._container = container
        return container

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
            if shown["State"]["Status"] == "exited" or time.monotonic() > deadline:
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
        while (found := self._client.log(container)) != text:
            shown = self._client.inspect(container)
            over = shown is None or shown["State"]["Status"] == "exited"
            if over or time.monotonic() > deadline:
                self._wrong(f"log {text!r} never came", repr(found))
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
            self._complain("remove", answer)
        if self._client.inspect(container) is not None:
            self._complain("removed and still there", container)

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
                self._complain("--rm", f"{container} is still there")
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

    def live_answers(self) -> None:
        """Execs with their output, in a container of its own or in one that runs throughout."""
        own = not self.others or self._chance.random() < 0.5
        container = self._create("exec sleep 600") if own else self._chance.choice(self.others)
        self._container = container
        if not own or self._start(container):
            for _ in range(self._chance.randrange(1, 4)):
                self._execute(container, self._chance.randrange(1, 120), talk=True)
            if own:
                self._client.insist("POST", f"/containers/{container}/kill")
                self._ended(container, 137)
            self._ledger.lived("answers", container, [137] if own else None)
        if own:
            self._remove(container)

    def _execute(self, container: str, code: int, talk: bool = False) -> None:
        """An exec that was started runs, is heard and has its exit code, whoever asks for it."""
        expected = "".join(f"{number}\n" for number in range(1, 201)) + "end\n"
        command = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i; done; sleep 0.1; echo end >&2"
        body = {
            "Cmd": ["sh", "-c", f"{command if talk else 'sleep 0.1'}; exit {code}"],
            "AttachStdout": talk,
            "AttachStderr": talk,
        }
        while True:
            status, answer = self._client.insist("POST", f"/containers/{container}/exec", body)
            if status != 201:
                self._wrong("exec", answer)
                return
            instance = json.loads(answer)["Id"]
            try:
                if talk:
                    said = self._client.converse(instance)
                    if said == expected:
                        break
                else:
                    status, answer = self._client.ask(
                        "POST", f"/exec/{instance}/start", {"Detach": True}
                    )
            except AwayError:
                continue  # what was not started is not known to the next daemon
            if not talk and status == 200:
                break
            if self._client.insist("GET", f"/exec/{instance}/json")[0] == 404:
                continue  # the daemon died before its monitor knew of it
            self._wrong("exec's start", repr(said) if talk else answer)
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

    def live_is_restarted(self) -> None:
        """Its end by a restart is an end; a restart that was cut short is asked for again."""
        container = self._create(
            "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done"
        )
        if self._start(container) and self._until_said(container, "up\n"):
            status, answer = self._client.insist("POST", f"/containers/{container}/restart", t=30)
            if status != 204:
                self._wrong("restart", answer)
            self._await(container, "running")
            self._client.insist("POST", f"/containers/{container}/kill")
            self._ended(container, 137)
            said = self._client.log(container)
            # The last run may be killed before its first word, and a restart be done twice.
            if not ("up\nbye\n" * 9).startswith(said) or not said.startswith("up\nbye\n"):
                self._wrong("log of a restart", repr(said))
            self._ledger.lived("is restarted", container, None)
        self._remove(container)

    def live_shares(self) -> None:
        """What is mounted on the machine for it, a volume with a name, an init."""
        code = self._chance.randrange(0, 120)
        volume = f"{self._label}-volume"
        container = self._create(
            f"echo kept > /data/file; sleep 0.1; cat /data/file; exit {code}",
            Binds=[f"{volume}:/data"],
            IpcMode="shareable",
            Init=True,
        )
        try:
            if self._start(container):
                self._ended(container, code)
                self._said(container, "kept\n")
                self._ledger.lived("shares", container, [code])
            self._remove(container)
        except VictimError:
            self._mourn()
        status, answer = self._client.insist("DELETE", f"/volumes/{volume}")
        if status not in (204, 404):
            self._complain("remove a volume", answer)

    def live_is_removed(self) -> None:
        """While it runs, or before that."""
        container = self._create("sleep 600 & exec sleep 600", Binds=["/data"])
        if self._chance.random() < 0.8:
            self._start(container)
        self._remove(container)
        self._ledger.lived("is removed", container, None)

    def live_loses_its_monitor(self) -> None:
        """It ends with its processes, and is reported so, whoever is there to see it."""
        container = self._create("sleep 600 & exec sleep 600")
        if self._start(container) and self._await(container, "running") is not None:
            kill_monitor(self._daemon, self._ledger, container)
            shown = self._await(container, "exited")
            state = {} if shown is None else shown["State"]
            if state.get("ExitCode") != 137 or "monitor died" not in state.get("Error", ""):
                self._complain("the end of its monitor", state)
            self._ledger.lived("loses its monitor", container, [137])
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

    SLOT = Slot

    def __init__(self, daemon: Daemon, containers: int, tickers: int, seed: int) -> None:
        self.daemon = daemon
        self.ledger = Ledger()
        self.tickers = [Ticker(daemon, number) for number in range(tickers)]
        chance = random.Random(seed)
        self.slots = [
            self.SLOT(daemon, self.ledger, number, chance.getrandbits(32))
            for number in range(containers - tickers)
        ]
        self.ledger.ids |= {ticker.id for ticker in self.tickers}

    def start(self) -> None:
        for slot in self.slots:
            slot.others = [ticker.id for ticker in self.tickers]
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
            if container in self.ledger.victims:
                continue  # it ended as it was not to
            expected = [word for code in codes for word in ("start", f"die{code}")]
            if told.get(container, []) != expected:
                self.ledger.complain(
                    f"events of {container[:12]}: {told.get(container, [])}, not {expected}"
                )
