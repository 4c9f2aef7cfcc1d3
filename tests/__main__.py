"""``python -m tests [pytest arguments]``: the whole suite, which is what ``make test`` runs.

Three processes side by side: pytest for most directories, whose words are seen as they come;
pytest for those in ``BESIDE``; and the lane in QEMU (``tests.qemu``). Tests mostly wait for the
kernel and for each other's processes, and emulation is work for the processor alone, so together
they take little longer than the longest; the lane's priority is the lowest, so that times which are
measured here stay what they are. What the others say is kept, printed when the first has ended, and
followed to their end. With arguments there is one pytest, and the lane.

The exit status is that of the first that failed. Each is run to its end whatever another finds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

from sampan.kernel.processes import set_parent_death_signal
from tests import leftovers

BESIDE = [
    f"tests/{name}" for name in "cli engine image kernel oci runtime sdk storage volume".split()
]
"""Half of the suite's time. No test of these looks at the machine's networks or its firewall, and
each operation of the API has its check elsewhere (``tests.compatibility``): ImageSearch in the
registry's, so those are not here."""
NICENESS = 5
"""The lane's, above ours."""
TIMEOUT = "1800"
"""Seconds for the lane's machine, which does not have the processors for itself."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LANE = [sys.executable, "-m", "tests.qemu"]
_PYTEST = [str(Path(sys.executable).parent / "pytest")]


class _Aside(NamedTuple):
    """A process whose words are kept until it is their turn."""

    title: str
    process: subprocess.Popen[bytes]
    said: IO[bytes]


def main() -> int:
    """Run all; returns the exit status."""
    before = leftovers.interfaces()
    arguments = sys.argv[1:] or [f"--ignore={name}" for name in BESIDE]
    first = _start([*_PYTEST, *arguments])
    others = [
        _aside("on a machine with cgroup v2 alone (python -m tests.qemu)", _LANE, nice=NICENESS)
    ]
    if not sys.argv[1:]:
        others.insert(0, _aside(f"pytest {' '.join(BESIDE)}", [*_PYTEST, *BESIDE]))
    for number in _ENDING:
        signal.signal(number, lambda number, _: _pass_on(number, first, others))
    statuses = [first.wait()]
    for other in others:
        print(f"\nbeside it, {other.title}:", flush=True)
        statuses.append(_follow(other))
    # The kernel takes a namespace's interfaces down some time after its last process.
    deadline = time.monotonic() + 30
    while (left := leftovers.interfaces() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        print("\nleft behind by the tests:", *sorted(left), sep="\n  ")
        statuses.append(1)
    return next((status & 0xFF for status in statuses if status), 0)


def _aside(title: str, command: list[str], *, nice: int = 0) -> _Aside:
    said = tempfile.TemporaryFile()  # noqa: SIM115 - until the end
    return _Aside(title, _start(command, said, nice=nice), said)


def _start(
    command: list[str], output: IO[bytes] | None = None, *, nice: int = 0
) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        set_parent_death_signal(signal.SIGTERM)
        os.nice(nice)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if output else None,
        stdout=output,
        stderr=output,
        env={"SAMPAN_QEMU_TIMEOUT": TIMEOUT, **os.environ, leftovers.APART: "1"},
        preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
    )


def _follow(other: _Aside) -> int:
    """Print what it has said and says, to its end."""
    position, status = 0, None
    while True:
        data = os.pread(other.said.fileno(), 65536, position)
        position += len(data)
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        if data:
            continue
        if status is not None:
            return status
        try:
            status = other.process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue


def _pass_on(number: int, first: subprocess.Popen[bytes], others: list[_Aside]) -> None:
    """Each ends in its own way, and cleans up. A terminal's Ctrl-C reaches them by itself."""
    if number != signal.SIGINT:
        for process in (first, *(other.process for other in others)):
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
