"""``python -m tests.qemu [pytest arguments]``: see the package's text.

The first serial line carries the kernel's console (kept in ``.cache/qemu/console.log``), the second
pytest's output, which is printed here as it comes, and at its end the exit status.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from sampan.kernel.processes import set_parent_death_signal
from tests.qemu.disk import CACHE, CHECKOUT, SITE, base_disk, find_program, interpreter, work_disk

TIMEOUT = float(os.environ.get("SAMPAN_QEMU_TIMEOUT", "900"))
"""Seconds for the machine."""

ACCELERATOR = os.environ.get("SAMPAN_QEMU_ACCEL", "tcg,thread=multi")
"""Emulation unless asked otherwise: on virtual machines a /dev/kvm is often there and broken."""

NEEDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "ldd": "libc-bin",
}
"""Programs, and the packages of Debian they come in."""

_STATUS = b"sampan-lane-exit:"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KERNELS = "/boot/vmlinuz-*-cloud-amd64"

_INIT = """#!/bin/sh
export PATH=/usr/bin:/bin:/sbin HOME=/root TERM=dumb LANG=C.UTF-8 COLUMNS={columns}
export PYTHONPATH=/sampan/src:/{site} PYTHONDONTWRITEBYTECODE=1 SAMPAN_LANE=qemu
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
chmod 1777 /tmp
mount -t tmpfs run /run
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
hostname lane
ip link set lo up
ulimit -n 20000
cd /sampan
stty -F /dev/ttyS1 raw -echo
{{ {python} -u -m pytest {arguments} </dev/null; echo "{status}$?"; }} 2>&1 | cat >/dev/ttyS1
poweroff -f
"""


def main() -> int:
    """Run the lane; returns pytest's exit status, 124 when the time is up, 125 when it broke."""
    kernel = _kernel()
    missing = [package for program, package in NEEDS.items() if not find_program(program)]
    if kernel is None:
        missing.append(f"linux-image-cloud-amd64 ({_KERNELS} and its modules)")
    if kernel is None or missing:
        _say(f"missing: {', '.join(missing)}; `tools/system-packages test` installs them")
        return 125
    started = time.monotonic()
    try:
        disk, ram = base_disk(kernel.name.partition("-")[2])
    except PackageNotFoundError as error:
        _say(f"{error.name} is not installed; `pip install --editable . --group dev` does it")
        return 125
    with tempfile.TemporaryDirectory(prefix="sampan-qemu-") as scratch:
        work, console = Path(scratch) / "work.ext4", Path(scratch) / "console.log"
        work_disk(work, Path(scratch), _script(sys.argv[1:]))
        booted = time.monotonic()
        machine = subprocess.Popen(
            _command(kernel, ram, disk, work, console),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # So that no machine outlives us, however we end. This process has one thread.
            preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL),  # noqa: PLW1509
        )
        try:
            status = _relay(machine, booted + TIMEOUT)
        finally:
            machine.kill()
            machine.wait()
        ended = time.monotonic()
        said = console.read_text(errors="replace") if console.exists() else ""
    (CACHE / "console.log").write_text(said)
    if status is None:
        late = ended >= booted + TIMEOUT
        why = f"was ended after {TIMEOUT:.0f} s" if late else "stopped without a result"
        print("\n" + "\n".join(said.splitlines()[-30:]), file=sys.stderr)
        _say(f"the machine {why}; its console's end stands above")
        return 124 if late else 125
    outcome = "passed" if status == 0 else f"failed, pytest's status is {status}"
    _say(f"{outcome}; disks {booted - started:.0f} s, machine {ended - booted:.0f} s")
    return status


def _say(text: str) -> None:
    print(f"tests.qemu: {text}", file=sys.stderr, flush=True)


def _kernel() -> Path | None:
    """The newest of Debian's cloud kernels whose modules are installed."""
    found = [
        path
        for path in Path("/boot").glob(Path(_KERNELS).name)
        if (Path("/lib/modules") / path.name.partition("-")[2] / "modules.dep").exists()
    ]
    return max(
        found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], default=None
    )


def _script(arguments: list[str]) -> str:
    chosen = [argument for argument in arguments if argument and (CHECKOUT / argument).is_dir()]
    named = any((CHECKOUT / argument.partition("::")[0]).is_file() for argument in arguments)
    options = [
        "-m",
        "v2",
        "-p",
        "no:cacheprovider",
        f"--color={'yes' if sys.stdout.isatty() else 'no'}",
        *(argument for argument in arguments if argument not in chosen),
    ]
    if not chosen and not named:
        chosen = ["tests"]
    # Of a directory only files with such tests: what others import need not be on that machine.
    options += sorted(
        str(path.relative_to(CHECKOUT))
        for directory in chosen
        for path in (CHECKOUT / directory).rglob("test_*.py")
        if "mark.v2" in path.read_text(encoding="utf-8")
    )
    return _INIT.format(
        arguments=shlex.join(options),
        columns=shutil.get_terminal_size().columns,
        python=interpreter(),
        site=SITE,
        status=_STATUS.decode(),
    )


def _command(kernel: Path, ram: Path, disk: Path, work: Path, console: Path) -> list[str]:
    command = (
        "qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -smp 2 -m 2048"
    )
    return [
        *command.split(),
        *("-cpu", "max", "-accel", ACCELERATOR),
        *("-kernel", str(kernel), "-initrd", str(ram)),
        *("-append", "console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on psi=1"),
        # Written to, and forgotten: the cached disk stays as it was made.
        *("-drive", f"file={disk},format=raw,if=virtio,snapshot=on"),
        *("-drive", f"file={work},format=raw,if=virtio,snapshot=on"),
        *("-serial", f"file:{console}", "-serial", "stdio"),
    ]


def _relay(machine: subprocess.Popen[bytes], deadline: float) -> int | None:
    """Print what the machine says until its last line, which is the status."""
    assert machine.stdout is not None
    descriptor = machine.stdout.fileno()
    kept = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            break
        data = os.read(descriptor, 65536)
        if not data:
            break
        kept += data
        at = kept.find(_STATUS)
        if at >= 0:
            line, newline, _ = kept[at + len(_STATUS) :].partition(b"\n")
            if newline:
                _print(kept[:at])
                return int(line)
            continue
        # Keep back what may be the beginning of the last line.
        end = kept.rfind(b"\n") + 1
        if not _STATUS.startswith(kept[end:][: len(_STATUS)]):
            end = len(kept)
        _print(kept[:end])
        kept = kept[end:]
    _print(kept)
    return None


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _stop(number: int, _frame: object) -> None:
    # Once: a second Ctrl-C would interrupt the cleaning up after the first.
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    _say(f"interrupted by {signal.Signals(number).name}")
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for _signal in _ENDING:
        signal.signal(_signal, _stop)
    sys.exit(main())
