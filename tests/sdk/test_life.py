"""Sessions: who may use one, what ends it, and that nothing of it stays, whoever is killed."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

import sampan
from sampan.kernel.mounts import MNT_DETACH, mount, mountinfo, umount
from sampan.sdk import home
from tests.sdk.conftest import PATIENCE, groups, left, sessions, undeleted

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def session(data_root: Path) -> Iterator[sampan.Session]:
    with sampan.Session(data_root) as session:
        yield session
        assert left(data_root) == []
    assert sessions(data_root) == []


def wait_until(what: object) -> None:
    assert callable(what)
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


_others: list[int] = []


@pytest.fixture(autouse=True)
def others() -> None:
    """What other tests keep running in this process's name is not ours to miss."""
    _others[:] = _all_children("self")


def children(pid: int | str = "self") -> list[int]:
    return [one for one in _all_children(pid) if one not in _others]


def _all_children(pid: int | str) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    while True:
        found: list[int] = []
        try:
            for task in tasks.iterdir():
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            assert tasks.exists()
            continue  # A thread has ended, and its children are another's.
        return found


@contextlib.contextmanager
def program(data_root: Path, code: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Another program, ``session`` in its hands, and what it prints."""
    text = (
        "import os, signal, sys, threading, time, sampan\n"
        f"session = sampan.Session({str(data_root)!r})\n"
        "def say(*words): os.write(1, (' '.join(map(str, words)) + '\\n').encode())\n" + code
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", text], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()
            process.wait()


def ended(pids: list[int]) -> bool:
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            return False
    return True


@pytest.mark.v2
def test_a_session_leaves_nothing(data_root: Path) -> None:
    with sampan.Session(data_root) as session:
        assert session.run("host", ["true"]).ok
        process = session.start("host", ["sleep", "600"])
        (place,) = sessions(data_root)
        name = place.name
    assert not place.exists()
    assert groups(name) == []
    assert children() == []
    assert process.wait().exit_code == 137  # its end was still told
    with pytest.raises(sampan.Unavailable, match="closed"):
        session.run("host", ["true"])
    session.close()


def test_a_session_ends_while_others_run_in_it(data_root: Path) -> None:
    session = sampan.Session(data_root)
    session.open()
    results: list[object] = []

    def work() -> None:
        try:
            while True:
                results.append(session.run("host", ["sleep", "0.05"]))
        except sampan.SampanError as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(results) > 6)
    session.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    errors = [one for one in results if isinstance(one, sampan.SampanError)]
    assert len(errors) == 6
    assert all("closed" in str(error) for error in errors), [str(one) for one in errors]
    assert sessions(data_root) == []
    assert children() == []


def test_sixteen_threads_at_a_time(session: sampan.Session) -> None:
    def work(number: int) -> str:
        return session.run("host", ["sh", "-c", f"echo {number} $(hostname)"]).text

    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(work, range(48)))
    assert [int(text.split()[0]) for text in texts] == list(range(48))
    assert len({text.split()[1] for text in texts}) == 48


def test_many_runs_leak_nothing(session: sampan.Session, data_root: Path) -> None:
    def state() -> tuple[int, int, int, int]:
        gc.collect()
        return (
            len(os.listdir("/proc/self/fd")),
            len([row for row in mountinfo() if str(data_root) in row.mount_point]),
            len(children()),
            threading.active_count(),
        )

    assert session.run("host", ["true"], files={"/a": "x"}, collect=["/a"]).ok
    wait_until(lambda: not any(thread.name == "sampan-dead" for thread in threading.enumerate()))
    before = state()
    for _ in range(10):
        session.run("host", ["true"], files={"/a": "x"}, collect=["/a"], input="x")
        session.run("host", ["sleep", "9"], timeout=0.02)
        with pytest.raises(sampan.CommandNotFound):
            session.run("host", ["no-such-command"])
        with pytest.raises(sampan.NotFound):
            session.run("no-such-image")
        with session.start("host", ["cat"], stdin=True):
            pass
    # What is being deleted, and by whom, is gone in a moment; a leak stays.
    wait_until(lambda: undeleted(data_root) == [])
    wait_until(lambda: state() == before)
    assert left(data_root) == []


def test_much_that_is_to_be_deleted_is_not_left_for_later(
    session: sampan.Session, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "_MOST_DEAD", 2)
    slow = threading.Event()
    real = home.Home._bury

    def bury(self: home.Home, path: str) -> None:
        if threading.current_thread().name == "sampan-dead":
            slow.wait(PATIENCE)
        real(self, path)

    monkeypatch.setattr(home.Home, "_bury", bury)
    for _ in range(8):
        session.run("host", ["true"])
    assert len(undeleted(data_root)) <= 4
    slow.set()
    wait_until(lambda: undeleted(data_root) == [])


def test_two_programs_at_once(data_root: Path) -> None:
    code = (
        "say(session.run('host', ['echo', 'one']).text.strip()); sys.stdin.read()\n"
        "say(session.run('host', ['echo', 'two']).text.strip()); session.close()"
    )
    with program(data_root, code) as (first, said), program(data_root, code) as (second, also):
        assert said.readline() == also.readline() == b"one\n"
        assert len(sessions(data_root)) == 2
        with sampan.Session(data_root) as session:
            assert session.run("host", ["true"]).ok
        for one, lines in ((first, said), (second, also)):
            assert one.stdin is not None
            one.stdin.close()
            assert lines.read() == b"two\n"
            assert one.wait(PATIENCE) == 0
    assert sessions(data_root) == []


@pytest.mark.parametrize(
    "moment", [pytest.param("running", marks=pytest.mark.v2), "reading", "starting"]
)
def test_a_program_that_is_killed_leaves_nothing(data_root: Path, moment: str) -> None:
    running = (
        "with session.start('host', ['sh', '-c', 'sleep 600 & echo up; sleep 600']) as process:\n"
        "  process.read(); say('up'); time.sleep(600)"
    )
    starting = (
        "session.open(); say('up')\n"
        "def work():\n  while True: session.run('host', ['sleep', '600'], timeout=0.05)\n"
        "for _ in range(4): threading.Thread(target=work).start()"
    )
    reading = "process = session.start('host', ['yes']); say('up')\nfor chunk in process: pass\n"
    code = {"running": running, "starting": starting, "reading": reading}[moment]
    with program(data_root, code) as (process, said):
        assert said.readline() == b"up\n"
        if moment == "starting":
            time.sleep(0.3)
        (place,) = sessions(data_root)
        (zygote,) = children(process.pid)
        monitors = children(zygote)
        process.kill()
    # Containers end with it, by their monitors; so do their cgroups.
    wait_until(lambda: ended([zygote, *monitors]))
    wait_until(lambda: groups(place.name) == [])
    # The rest is for the next one.
    assert place.exists()
    with sampan.Session(data_root) as session:
        assert not place.exists()
        assert left(data_root) == []
        assert session.run("host", ["true"]).ok
    assert groups(place.name) == []
    for place_of in Path("/sys/fs/cgroup").iterdir():
        assert not (place_of / "sampan-sessions" / place.name).exists()


def test_even_when_its_monitors_are_killed_too(data_root: Path) -> None:
    code = (
        "process = session.start('host', ['sh', '-c', 'sleep 600 & echo up; sleep 600'])\n"
        "process.read(); say('up'); time.sleep(600)"
    )
    with program(data_root, code) as (process, said):
        assert said.readline() == b"up\n"
        (place,) = sessions(data_root)
        (zygote,) = children(process.pid)
        for pid in (zygote, process.pid, *children(zygote)):
            os.kill(pid, signal.SIGKILL)
    assert groups(place.name)
    with sampan.Session(data_root):
        assert sessions(data_root) != [place]
        assert groups(place.name) == []
        assert left(data_root) == []


def test_one_that_ends_by_itself_leaves_nothing_at_all(data_root: Path) -> None:
    code = "process = session.start('host', ['sleep', '600'])\nsay('up')\nraise SystemExit(3)"
    with program(data_root, code) as (process, said):
        assert said.readline() == b"up\n"
        assert process.wait(PATIENCE) == 3
    assert sessions(data_root) == []


def test_an_interrupt_kills_and_cleans_up(data_root: Path) -> None:
    code = (
        "import glob; session.open()\n"
        "place = session._owner.home().directory\n"
        "def interrupt():\n"
        "  while not glob.glob(place + '/c/*/run/monitor.sock'): time.sleep(0.01)\n"
        "  time.sleep(0.3); os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "begin = time.monotonic()\n"
        "try:\n  session.run('host', ['sleep', '600'])\n"
        "except KeyboardInterrupt:\n"
        "  say('interrupted', len(os.listdir(place + '/c')), time.monotonic() - begin < 100)\n"
        "say(session.run('host', ['echo', 'goes on']).text)"
    )
    with program(data_root, code) as (process, said):
        assert said.readline() == b"interrupted 0 True\n"
        assert said.readline() == b"goes on\n"
        assert process.wait(PATIENCE) == 0
    assert sessions(data_root) == []


def test_interrupts_at_any_moment_leave_nothing(data_root: Path) -> None:
    code = (
        "import random\n"
        "session.open()\n"
        "place = session._owner.home().directory\n"
        "count = 0\n"
        "while count < 60:\n"
        "  try:\n"
        "    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.06))\n"
        "    session.run('host', ['true'], files={'/a': 'x'})\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "  except KeyboardInterrupt:\n"
        "    count += 1\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "say(session.run('host', ['echo', 'goes on']).text, len(os.listdir(place + '/c')))\n"
        "session.close()\nsay('closed')"
    )
    code = "signal.signal(signal.SIGALRM, signal.default_int_handler)\n" + code
    with program(data_root, code) as (process, said):
        assert said.read().split() == [b"goes", b"on", b"0", b"closed"]
        assert process.wait(PATIENCE) == 0
    assert sessions(data_root) == []


def test_a_fork_has_no_part_in_it(data_root: Path) -> None:
    with sampan.Session(data_root) as session:
        session.open()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                session.run("host", ["true"])
            except sampan.Unavailable as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(pid, 0)
        with open(reader, "rb") as file:
            assert b"after a fork, begin another" in file.read()
        assert session.run("host", ["true"]).ok


def test_a_fork_that_lives_on_does_not_keep_it_alive(data_root: Path) -> None:
    code = (
        "process = session.start('host', ['sleep', '600'])\n"
        "if os.fork() == 0: time.sleep(600)\n"
        "say('up'); time.sleep(600)"
    )
    with program(data_root, code) as (process, said):
        assert said.readline() == b"up\n"
        (place,) = sessions(data_root)
        (zygote, fork) = sorted(children(process.pid))
        process.kill()
        process.wait()
        try:
            wait_until(lambda: ended([zygote]))
            wait_until(lambda: groups(place.name) == [])
            with sampan.Session(data_root):
                assert not place.exists()
        finally:
            os.kill(fork, signal.SIGKILL)


def test_the_default_session_is_each_processes_own(tmp_path: Path) -> None:
    code = (
        "import os, sampan\n"
        "print(sampan.run('host', ['echo', 'parent']).text, end='', flush=True)\n"
        "if os.fork() == 0:\n"
        "  print(sampan.run('host', ['echo', 'child']).text, end='', flush=True)\n"
        "else:\n"
        "  os.wait()\n"
        "  print(sampan.run('host', ['echo', 'parent again']).text, end='')\n"
    )
    environment = {**os.environ, "SAMPAN_DATA_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "parent\nchild\nparent again\n"
    assert sessions(tmp_path) == []


def test_a_program_that_waits_for_any_child(data_root: Path) -> None:
    with program(
        data_root,
        "session.run('host', ['true'])\n"
        "os.kill(session._owner.home()._zygote.pid, signal.SIGKILL)\n"
        "say(os.wait()[1] == 9)\n"
        "say(session.run('host', ['echo', 'goes on']).text)\nsession.close()",
    ) as (process, said):
        assert said.read().split() == [b"True", b"goes", b"on"]
        assert process.wait(PATIENCE) == 0


def test_a_zygote_that_is_killed_is_replaced(session: sampan.Session) -> None:
    with session.start("host", ["cat"], stdin=True) as process:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        assert session.run("host", ["echo", "x"]).text == "x\n"
        process.write(b"still there\n")
        process.close_stdin()
        assert process.wait().text == "still there\n"


def test_a_zygote_that_is_killed_again_and_again(session: sampan.Session) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.07):
            for pid in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(20):
            try:
                assert session.run("host", ["echo", "x"]).text == "x\n"
            except sampan.Unavailable:
                continue
    finally:
        stop.set()
        killer.join()
    assert session.run("host", ["echo", "x"]).text == "x\n"


def test_a_monitor_that_is_killed_is_told(session: sampan.Session, data_root: Path) -> None:
    with session.start("host", ["sh", "-c", "sleep 600 & echo up; sleep 600"]) as process:
        assert process.read() is not None
        (place,) = sessions(data_root)
        record = json.loads((place / "c" / process.id / "run/monitor.json").read_text())
        os.kill(record["pid"], signal.SIGKILL)
        with pytest.raises(sampan.Unavailable, match=r"monitor of container .* was killed"):
            process.wait()
    assert left(data_root) == []


def test_who_is_not_root_is_told_what_to_do(tmp_path: Path) -> None:
    code = (
        "import os, sys, sampan\nos.setuid(65534)\n"
        "try:\n  sampan.run('host', ['true'])\n"
        "except sampan.PermissionDenied as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SAMPAN_DATA_ROOT": str(tmp_path)},
    )
    assert "must be root: start it with sudo" in done.stdout


def test_containers_that_write_to_memory(data_root: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mount("tmpfs", str(scratch), "tmpfs", 0, "mode=1777")
    try:
        with sampan.Session(data_root, scratch=scratch) as session:
            line = "/script && echo x > /usr/local/y && stat -fc %T /script /usr/local/y"
            script = sampan.File(b"#!/bin/sh\necho script\n", mode=0o755)
            result = session.run("host", ["sh", "-c", line], files={"/script": script})
            assert result.text == "script\noverlayfs\noverlayfs\n"
            assert not (data_root / "sessions").exists()
        assert set(os.listdir(scratch / "sampan-sessions")) == {"host", "lock"}
        (scratch / "sampan-sessions").chmod(0o777)
        with pytest.raises(sampan.InvalidArgument, match="not a directory of ours alone"):
            sampan.Session(data_root, scratch=scratch).open()
    finally:
        umount(str(scratch), MNT_DETACH)


@pytest.mark.parametrize("root", ["/usr/share/sampan-test", "/tmp/a:b", "/proc/nowhere"])
def test_a_data_root_that_cannot_be(root: str) -> None:
    with pytest.raises(sampan.SampanError) as caught, sampan.Session(root) as session:
        session.run("host", ["true"])
    assert root in str(caught.value)
    assert children() == []
    if os.path.isdir(root):
        import shutil

        shutil.rmtree(root)


def test_no_descriptor_of_the_program_is_in_a_container(session: sampan.Session) -> None:
    result = session.run("host", ["ls", "/proc/self/fd"], input="")
    assert result.text.split() == ["0", "1", "2", "3"]
