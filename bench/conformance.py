"""The API's document against the daemon: ``python -m bench.conformance [EXAMPLES] [OPERATION…]``.

Every operation of the document gets EXAMPLES (100) requests made from it, at random
(``tests.compatibility.fuzz``). Prints a line an operation, and ends with 1 if one of them is wrong.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.compatibility.fuzz import Fuzzer, operations
from tests.daemon_fixture import Daemon

__all__ = ["main"]


def _memory(pid: int) -> int:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))


def main(examples: int, names: list[str]) -> int:
    """The exit code."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as place:
        root = Path(place) / "d"
        root.mkdir()
        daemon = Daemon(root)
        daemon.wrapper = ("unshare", "--net")
        fuzzer = Fuzzer(daemon)
        try:
            daemon.start()
            before = _memory(daemon.pid)
            for operation in operations():
                name = operation.definition.raw.get("operationId", "")
                if names and name not in names:
                    continue
                fuzzer.statuses.clear()
                began = time.monotonic()
                said = "ok"
                try:
                    fuzzer.run(operation, examples, derandomize=False)
                except AssertionError as error:
                    failed += 1
                    said = f"WRONG {error}"
                statuses = " ".join(f"{k}:{n}" for k, n in sorted(fuzzer.statuses.items()))
                print(
                    f"{name:26} {time.monotonic() - began:6.1f} s  {statuses}  {said}", flush=True
                )
            after = _memory(daemon.pid)
            print(f"{fuzzer.requests} requests, {failed} operations wrong")
            print(f"the daemon's memory: {before} KiB before, {after} KiB after")
        finally:
            fuzzer.close()
            daemon.close()
    return 1 if failed else 0


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    sys.exit(main(count, sys.argv[2:]))
