"""What the command line costs beyond the interpreter's own start.

    python bench/client.py [--runs N]

``python -c pass``, ``sampan --help`` and ``sampan ps`` (against a running daemon) in turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peers import SAMPAN, sampan_daemon, workspace

# Milliseconds over `python -c pass` that each may take.
_BUDGET = {"sampan --help": 40.0, "sampan ps": 80.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    with workspace() as place, sampan_daemon(place) as (host, _):
        cases = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "sampan --help": [str(SAMPAN), "--help"],
            "sampan ps": [str(SAMPAN), "-H", host, "ps"],
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(options.runs + 1):
            for name, argv in cases.items():
                begin = time.perf_counter()
                subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
                if number:  # the first round warms up
                    times[name].append((time.perf_counter() - begin) * 1000)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["python -c pass"]
    for name, value in medians.items():
        over = value - base
        budget = _BUDGET.get(name)
        verdict = (
            f"  budget {budget:.0f}: {'met' if over <= budget else 'NOT met'}" if budget else ""
        )
        print(f"{name:<16}{value:7.1f} ms  +{over:5.1f}{verdict}")


if __name__ == "__main__":
    main()
