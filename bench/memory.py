"""Memory of all our processes with many idle containers: ``python -m bench.memory [COUNT]``.

As root. A daemon of ours runs COUNT (100) containers that sleep, with the default seccomp profile,
a log and piped output. Summed is the proportional set size (PSS, proc(5) smaps_rollup) of the
daemon, its zygote, the pair that waits for the next container, and a monitor for each. PSS shares
out what the forks have in common; ``private`` is what one more container adds.

PSS shares out with other programs too: with a few more of Python about, the interpreter's own pages
cost us little. ``alone`` is without that: the pages that are in memory for any process of ours,
each counted once (proc(5), pagemap).

A monitor sleeps until its container writes something or is executed in. Then a fork of it is awake,
until nothing was to be done for some seconds. What stays of that is measured afterwards, by an exec
in each container.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from array import array

from bench.exec import run_directly
from bench.peers import busybox_root, private_mounts, root_tar, sampan_daemon, workspace
from bench.start import Api, load

__all__ = ["main"]


_SETTLED = 2.0
_REST = 60.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1


def rollup(pid: int) -> dict[str, int]:
    """Fields of /proc/PID/smaps_rollup in kibibytes."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return {name: int(size) for name, size in re.findall(r"(\w+): +(\d+) kB", file.read())}


def children(pid: int) -> list[int]:
    """Its child processes that are ours."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        found = [int(one) for one in file.read().split()]
    return [one for one in found if _name(one).startswith("sampan")]


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read().strip()


def _pss(*pids: int) -> float:
    return sum(rollup(pid)["Pss"] for pid in pids) / 1024


def alone(*pids: int) -> float:
    """Megabytes of the distinct pages that these processes have in memory."""
    frames: set[int] = set()
    for pid in pids:
        with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
            areas = [line.split()[0].split("-") for line in file if "[v" not in line]
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
            for first, last in areas:
                begin, end = int(first, 16) // _PAGE, int(last, 16) // _PAGE
                entries = array("Q", os.pread(file.fileno(), 8 * (end - begin), 8 * begin))
                frames.update(entry & _FRAME for entry in entries if entry & _PRESENT)
    frames.discard(0)
    return len(frames) * _PAGE / 2**20


def main(count: int) -> None:
    """Print the table."""
    private_mounts()
    with workspace() as place, sampan_daemon(place) as (host, daemon):
        load(host, root_tar(busybox_root(place), place))
        api = Api(host, "v1.40")
        body = {
            "Image": "bench",
            "Cmd": ["sleep", "100000"],
            "HostConfig": {"NetworkMode": "none"},
        }
        names = []
        for _ in range(count):
            name = json.loads(api.call("POST", "/containers/create", body))["Id"]
            api.call("POST", f"/containers/{name}/start")
            names.append(name)
        time.sleep(_SETTLED)  # the daemon gives back what the load took
        # Beside it there may be who moves or unpacks images for the daemon; what unpacked this one
        # ends when it had nothing to do for some seconds.
        deadline = time.monotonic() + 4 * _SETTLED
        while len(children(daemon)) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        zygote = next(pid for pid in children(daemon) if _name(pid) == "sampan-zygote")
        helpers = [pid for pid in children(daemon) if pid != zygote]
        monitors = children(zygote)
        waiting = [pid for pid in monitors if children(pid)]
        makers = [maker for pid in waiting for maker in children(pid)]
        idle = [pid for pid in monitors if pid not in waiting]
        private = sum(rollup(pid)["Private_Dirty"] for pid in idle) / 1024
        everything = (daemon, *helpers, zygote, *monitors, *makers)
        each, total = _pss(*idle) / count, _pss(*everything)
        print(f"{os.uname().release}, {count} idle containers, PSS in MB")
        print(f"  monitors                {_pss(*idle):7.2f}   {each:.3f} each, target 0.4")
        print(f"  of it private           {private:7.2f}   {private / count:.3f} each")
        print(f"  the pair that waits     {_pss(*waiting, *makers):7.2f}")
        print(f"  zygote                  {_pss(zygote):7.2f}")
        print(f"  daemon                  {_pss(daemon):7.2f}")
        if helpers:
            print(f"  {', '.join(map(_name, helpers)):<21} {_pss(*helpers):10.2f}")
        print(f"  all told                {total:7.2f}   target 60 with 100")
        print(f"  alone                   {alone(*everything):7.2f}")
        for name in names:
            run_directly(api, host, name, ["true"])
        deadline = time.monotonic() + _REST
        while any("sampan-awake" in map(_name, children(pid)) for pid in idle):
            assert time.monotonic() < deadline, "monitors do not rest"
            time.sleep(0.1)
        everything = (daemon, zygote, *monitors, *makers)
        private = sum(rollup(pid)["Private_Dirty"] for pid in idle) / 1024
        print("  after an exec in each, and rest")
        print(f"  monitors                {_pss(*idle):7.2f}   {_pss(*idle) / count:.3f} each")
        print(f"  of it private           {private:7.2f}   {private / count:.3f} each")
        print(f"  all told                {_pss(*everything):7.2f}")
        for name in names:
            api.call("DELETE", f"/containers/{name}?force=1")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
