"""Drives ``sampan-runtime`` as its callers do: by its command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import sampan
from sampan.kernel.cgroups import detect

SOURCE = str(Path(sampan.__file__).parents[1])
_PROGRAM = (
    f"import sys; sys.path.insert(0, {SOURCE!r}); "
    "from sampan.runtime.command.main import main; sys.exit(main())"
)
COMMAND = (sys.executable, "-I", "-S", "-c", _PROGRAM)

FOREVER = ("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")


def make_bundle(path: Path, *args: str, **changes: Any) -> Path:
    """A bundle with busybox that runs ``args``; ``changes`` to config.json's top-level keys, where
    a dictionary is merged into the one that is there."""
    root = path / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "sleep", "cat", "id", "env", "pwd", "ls", "true", "tty", "stty"):
        (root / "bin" / name).symlink_to("busybox")
    config: dict[str, Any] = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs", "readonly": True},
        "process": {
            "args": list(args or FOREVER),
            "cwd": "/",
            "env": ["PATH=/bin"],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
        ],
        "linux": {
            "cgroupsPath": f"/sampan-test-{os.getpid()}/{path.name}",
            "namespaces": [
                {"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network", "cgroup")
            ],
        },
    }
    for key, value in changes.items():
        merge = isinstance(value, dict) and key in config
        config[key] = {**config[key], **value} if merge else value
    (path / "config.json").write_text(json.dumps(config))
    return path


class Runtime:
    """The command with a state directory of its own; ``clean`` ends whatever is left."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "state"
        self.log = directory / "log"

    def argv(self, *words: str) -> list[str]:
        return [*COMMAND, "--root", str(self.root), *words]

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The finished process, with its output as text."""
        options = {"capture_output": True, "text": True, "timeout": 60, **options}
        return subprocess.run(self.argv(*words), check=False, **options)

    def ok(self, *words: str, **options: Any) -> str:
        """Standard output of a call that must succeed."""
        done = self.run(*words, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def fails(self, *words: str, status: int = 1, **options: Any) -> str:
        """Standard error of a call that must fail."""
        done = self.run(*words, **options)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return str(done.stderr)

    def quiet(self, *words: str) -> None:
        """A call that leaves processes behind: they must not hold our pipes."""
        with open("/dev/null", "r+b") as null, open(self.log, "ab") as log:
            done = subprocess.run(
                self.argv(*words), check=False, stdin=null, stdout=null, stderr=log, timeout=60
            )
        assert done.returncode == 0, self.log.read_text()

    def state(self, container_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("state", container_id))
        return found

    def status(self, container_id: str) -> str:
        return str(self.state(container_id)["status"])

    def wait(self, container_id: str, status: str) -> None:
        """Until the container has this status; it has ten seconds."""
        deadline = time.monotonic() + 60
        while self.status(container_id) != status:
            assert time.monotonic() < deadline, self.state(container_id)
            time.sleep(0.02)

    def clean(self) -> None:
        for name in self.ok("list", "-q").split():
            self.run("delete", "--force", name)
        detect().group(f"/sampan-test-{os.getpid()}").destroy()


def groups_of(bundle: Path) -> list[str]:
    """The cgroup directories there are for a bundle's container."""
    group = detect().group(f"/sampan-test-{os.getpid()}/{bundle.name}")
    return [path for path in group.paths().values() if Path(path).exists()]
