"""A busybox root file system and the configurations that the runtime's tests run in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from sampan.oci.runtime import Process, Spec
from sampan.runtime import launch as launching

if TYPE_CHECKING:
    from pathlib import Path

    from sampan.runtime.launch import Child

BUSYBOX = "/bin/busybox"
NAMESPACES = ("mount", "pid", "network", "uts", "ipc", "cgroup")
CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID "
    "CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
).split()
MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    },
    {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    },
]


def make_bundle(directory: Path) -> Path:
    """A bundle with a busybox ``rootfs``; returns its directory."""
    root = directory / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in subprocess.run(
        [BUSYBOX, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\nada:x:1000:\nwheel:x:10:root,ada\n")
    return directory


def configuration(*args: str, **changes: Any) -> dict[str, Any]:
    """A ``config.json`` that runs ``args`` with the usual isolation.

    ``changes``: top-level fields; those of ``process`` and ``linux`` are merged into the default.
    """
    process: dict[str, Any] = {
        "args": list(args),
        "cwd": "/",
        "env": ["PATH=/bin", "HOME=/root"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
    }
    linux: dict[str, Any] = {"namespaces": [{"type": name} for name in NAMESPACES]}
    process |= changes.pop("process", {})
    linux |= changes.pop("linux", {})
    return {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "mounts": MOUNTS,
        "process": process,
        "linux": linux,
        **changes,
    }


def spec_of(*args: str, **changes: Any) -> Spec:
    """``configuration`` as a record."""
    return Spec.from_json(configuration(*args, **changes))


def process_of(*args: str, **changes: Any) -> Process:
    """The ``process`` of ``configuration`` as a record."""
    return Process.from_json(configuration(*args, process=changes)["process"])


class Run:
    """One container with its output on a pipe."""

    def __init__(self, bundle: Path, spec: Spec, **options: Any) -> None:
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        self.output_fd = read
        options.setdefault("stdio", (null, write, write))
        try:
            self.child: Child = launching.create(
                launching.Launch(options.pop("id", "test"), spec, str(bundle), **options)
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
            os.close(null)

    def finish(self) -> tuple[int, str]:
        """Start it, read its output to the end and reap it: (exit status, output)."""
        self.child.start()
        return self.end()

    def end(self) -> tuple[int, str]:
        """Read the output to the end and reap the process."""
        data = b""
        while chunk := os.read(self.output_fd, 65536):
            data += chunk
        os.close(self.output_fd)
        code = self.child.wait()
        self.child.close()
        return code, data.decode()


def run(bundle: Path, *args: str, **changes: Any) -> tuple[int, str]:
    """Run ``args`` in a new container of ``bundle``: (exit status, output)."""
    options = changes.pop("options", {})
    return Run(bundle, spec_of(*args, **changes), **options).finish()


def shell(bundle: Path, script: str, **changes: Any) -> str:
    """The output of a shell script that must succeed in a new container."""
    code, output = run(bundle, "sh", "-c", script, **changes)
    assert code == 0, output
    return output.strip()
