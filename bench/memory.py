"""Memory of our own processes per idle container: ``python -m bench.memory [COUNT]`` (root).

Starts COUNT containers (20) that sleep, with the default seccomp profile, a log and piped output,
and sums the proportional set size (PSS, proc(5) smaps_rollup) of their monitors. PSS shares out
what the forks have in common, so it falls with their number; ``private`` is what one more container
adds. The zygote, one for all, is shown apart.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from bench.peers import busybox_root, workspace
from sampan.runtime.profiles import default_seccomp
from sampan.runtime.supervisor import protocol
from sampan.runtime.supervisor.client import start_zygote

__all__ = ["main"]

CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID "
    "CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
).split()
NAMESPACES = ("mount", "pid", "network", "uts", "ipc", "cgroup")


def rollup(pid: int) -> dict[str, int]:
    """Fields of /proc/PID/smaps_rollup in kibibytes."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return {name: int(size) for name, size in re.findall(r"(\w+): +(\d+) kB", file.read())}


def configuration(root: str, *args: str) -> dict[str, Any]:
    """A configuration as the daemon would make it."""
    return {
        "ociVersion": "1.3.0",
        "root": {"path": root},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ],
        "process": {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "noNewPrivileges": True,
        },
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "seccomp": default_seccomp(CAPABILITIES).to_json(),
            "resources": {"pids": {"limit": 100}},
        },
    }


def main(count: int) -> None:
    """Print the table."""
    with workspace() as place:
        root = busybox_root(place)
        spec = configuration(str(root), "sleep", "100000")
        zygote = start_zygote()
        controls = []
        try:
            for number in range(count):
                name = f"bench-{number}"
                request = {
                    "id": name,
                    "run_dir": str(place / name),
                    "spec": spec,
                    "bundle": str(place),
                    "cgroup": f"/sampan-bench/{name}",
                    "log": {"driver": "json-file", "path": str(place / f"{name}.log")},
                    "start": True,
                }
                control = zygote.spawn(request)
                controls.append(control)
                _expect(control, "created")
                _expect(control, "started")
            monitors = [_credentials(place / f"bench-{number}") for number in range(count)]
            rows = [rollup(pid) for pid in monitors]
            base = rollup(zygote.pid)
        finally:
            for control in controls:
                protocol.send(control, {"op": "kill", "seq": 1, "signal": 9})
            for control in controls:
                _expect(control, "exit")
                control.close()
            zygote.close()
    pss = sum(row["Pss"] for row in rows)
    private = sum(row["Private_Dirty"] + row["Private_Clean"] for row in rows)
    print(f"{count} idle containers")
    print(f"  monitors, PSS           {pss / 1024:8.2f} MB  {pss / count / 1024:6.3f} MB each")
    print(
        f"  of it private           {private / 1024:8.2f} MB  {private / count / 1024:6.3f} MB each"
    )
    print(
        f"  zygote, PSS             {base['Pss'] / 1024:8.2f} MB  (RSS {base['Rss'] / 1024:.1f} MB)"
    )
    print(f"  all told                {(pss + base['Pss']) / 1024:8.2f} MB")


def _expect(control: Any, event: str) -> dict[str, Any]:
    while (received := protocol.receive(control)) is not None:
        message = received[0]
        if message.get("event") == event:
            return message
        if message.get("event") == "failed":
            raise SystemExit(str(message))
    raise SystemExit(f"the monitor ended before {event!r}")


def _credentials(run_dir: Any) -> int:
    return int(protocol.decode((run_dir / "monitor.json").read_bytes())["pid"])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
