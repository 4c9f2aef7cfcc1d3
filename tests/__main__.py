"""``python -m tests [pytest arguments]``: the whole suite, which is what ``make test`` runs.

pytest here, and beside it the lane in QEMU (``tests.qemu``). Emulation is work for the processor
alone and pytest mostly waits, so the two together take little longer than pytest; the lane's
priority is the lower one, so that times which are measured here stay what they are. What the lane
says is kept, printed when pytest has ended, and followed to its end.

The exit status is pytest's, or else the lane's. Either is run to its end whatever the other finds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from sampan.kernel.processes import set_parent_death_signal

NICENESS = 5
"""The lane's, above ours."""
TIMEOUT = "1800"
"""Seconds for the lane's machine, which does not have the processors for itself."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run both; returns the exit status."""
    with tempfile.TemporaryFile() as said:
        lane = _start([sys.executable, "-m", "tests.qemu"], said, nice=NICENESS)
        suite = _start([str(Path(sys.executable).parent / "pytest"), *sys.argv[1:]])
        for number in _ENDING:
            signal.signal(number, lambda number, _: _pass_on(number, suite, lane))
        status = suite.wait()
        print("\nbeside it, on a machine with cgroup v2 alone (python -m tests.qemu):", flush=True)
        lane_status = _follow(lane, said)
    return (status or lane_status) & 0xFF


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
        env={"SAMPAN_QEMU_TIMEOUT": TIMEOUT, **os.environ},
        preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
    )


def _follow(lane: subprocess.Popen[bytes], said: IO[bytes]) -> int:
    """Print what it has said and says, to its end."""
    position, status = 0, None
    while True:
        data = os.pread(said.fileno(), 65536, position)
        position += len(data)
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        if data:
            continue
        if status is not None:
            return status
        try:
            status = lane.wait(0.5)
        except subprocess.TimeoutExpired:
            continue


def _pass_on(number: int, *processes: subprocess.Popen[bytes]) -> None:
    """Each ends in its own way, and cleans up. A terminal's Ctrl-C reaches them by itself."""
    if number != signal.SIGINT:
        for process in processes:
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
