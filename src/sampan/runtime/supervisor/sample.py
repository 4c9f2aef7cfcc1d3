"""Requests of the usual kind, for rehearsals: nothing is made of them."""

from __future__ import annotations

import base64
import json

__all__ = ["EXEC", "SAMPLE"]

_CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID "
    "CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
).split()


def _mount(destination: str, kind: str, *options: str) -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _device(*numbers: int) -> dict[str, object]:
    row: dict[str, object] = {"allow": True, "type": "c", "access": "rwm"}
    return {**row, **dict(zip(("major", "minor"), numbers, strict=False))}


_SPEC = {
    "ociVersion": "1.3.0",
    "root": {"path": "/", "readonly": False},
    "hostname": "sample",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "additionalGids": [0, 1]},
        "args": ["/bin/true"],
        "env": ["PATH=/usr/bin:/bin", "HOSTNAME=sample"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
        "noNewPrivileges": False,
        "oomScoreAdj": 0,
    },
    "mounts": [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "mode=0620", "gid=5"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=64m"),
        _mount("/etc/hosts", "bind", "rbind", "rprivate", "rw"),
    ],
    "linux": {
        "namespaces": [
            {"type": kind} for kind in ("mount", "uts", "pid", "ipc", "network", "cgroup")
        ],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}, _device(1, 3), _device(136)],
            "memory": {"limit": 1 << 30},
            "cpu": {"shares": 1024},
            "pids": {"limit": 100},
        },
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
    },
}

SAMPLE = json.dumps(
    {
        "op": "spawn",
        "id": "sample",
        "run_dir": "/sample",
        "spec": _SPEC,
        "seccomp": {"program": base64.b64encode(bytes(4096)).decode("ascii")},
        "bundle": "/",
        "rootfs": [_mount("/", "overlay", "lowerdir=/a", "upperdir=/b", "workdir=/c")],
        "cgroup": "/sample",
        "log": {"driver": "json-file", "path": "/sample", "max_size": None, "max_file": 1},
        "start": True,
        "links": {"/etc/mtab": "/proc/mounts"},
        "plugs": [
            {
                "host": "sample",
                "name": "eth0",
                "master": 1,
                "mac": "02:42:0a:00:00:02",
                "mtu": 1500,
                "addresses": ["10.0.0.2/16"],
                "gateways": ["10.0.0.1"],
            }
        ],
    }
).encode("ascii")

EXEC = {"op": "exec", "seq": 0, "exec_id": "sample", "process": _SPEC["process"], "multiplex": True}
