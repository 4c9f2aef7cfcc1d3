"""Requests nobody would make (``tests/registry/server/fuzz.py``), new ones, for a while.

    python -m bench.registry_fuzz [--minutes N] [--seed N]

Against an open registry and against one with accounts. Ends at the first answer that should not
be, with the smallest request hypothesis finds for it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from hypothesis import HealthCheck, given, seed, settings
from tests.registry.server.fuzz import Fuzzer, Made, requests, two

_EXAMPLES = 1000


def attack(fuzzer: Fuzzer, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def work(made: Made) -> None:
        fuzzer.send(made)

    work()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    turn, end = chosen.seed, time.monotonic() + chosen.minutes * 60
    with two("/var/tmp") as fuzzers:
        while time.monotonic() < end:
            print(f"seed {turn}", flush=True)
            attack(fuzzers[0 if turn % 4 else 1], turn)
            turn += 1
        statuses = sum((Counter(one.statuses) for one in fuzzers), Counter[int]())
        memory = max(one.memory() for one in fuzzers) >> 20
        print(f"{statuses.total()} answers: {dict(sorted(statuses.items()))}; {memory} MB at most")


if __name__ == "__main__":
    main()
