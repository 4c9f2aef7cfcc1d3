"""A private PostgreSQL for tests: Debian's, in a directory of its own, on a Unix socket."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

__all__ = ["Cluster"]

_DEADLINE = 60.0
_USER = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
"""initdb refuses root."""
_TIED = ("--pdeathsig", "INT")
"""It ends with us, however we end."""
_QUICK = {"fsync": "off", "shared_buffers": "16MB", "listen_addresses": "", "jit": "off"}


class Cluster:
    """The server's process, which ends with us, however we end."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        # Not below pytest's directories, which are root's alone.
        self.place = Path(tempfile.mkdtemp(prefix="postgres-"))
        shutil.chown(self.place, "nobody", "nogroup")
        data = self.place / "data"
        words = ["--no-sync", "--encoding", "UTF8", "--locale", "C", "--username", "sampan"]
        subprocess.run(
            [*_USER, programs / "initdb", "-D", data, *words, "--auth", "trust"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )
        settings = [f"--{name}={value}" for name, value in _QUICK.items()]
        self._log = self.place / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*_USER, *_TIED, programs / "postgres", "-D", data, "-k", self.place, *settings],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + _DEADLINE
        while "ready to accept connections" not in self._log.read_text():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def url(self, name: str) -> str:
        return f"postgresql://sampan@/{name}?host={self.place}"

    def make(self) -> str:
        """An empty database's URL."""
        import psycopg

        name = f"test_{os.urandom(6).hex()}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def close(self) -> None:
        self.process.send_signal(signal.SIGQUIT)  # "immediate": nobody needs it again
        self.process.wait(_DEADLINE)
        shutil.rmtree(self.place)
