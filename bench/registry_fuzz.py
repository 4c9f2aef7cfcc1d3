"""Requests nobody would make (``tests/registry/server/fuzz.py``), new ones, for a while.

    python -m bench.registry_fuzz [--minutes N] [--seed N] [--described]

Against an open registry and against one with accounts. With ``--described`` they are made by
schemathesis from the registry's OpenAPI document, each operation in turn, and answers are held
against it. Ends at the first answer that should not
be, with the smallest request hypothesis finds for it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from hypothesis import HealthCheck, given, seed, settings
from tests.registry.server.fuzz import Fuzzer, Made, requests, two

_EXAMPLES = 1000
_DESCRIBED = 60


def attack(fuzzer: Fuzzer, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def work(one: Made) -> None:
        fuzzer.send(one)

    work()


def described(fuzzers: tuple[Fuzzer, Fuzzer], minutes: float) -> None:
    from tests.registry.server.described import Describer, operations

    both = [Describer(fuzzer) for fuzzer in fuzzers]
    end, rounds = time.monotonic() + minutes * 60, 0
    while time.monotonic() < end:
        for operation in operations():
            for one in both:
                one.run(operation, _DESCRIBED, derandomize=False)
        rounds += 1
        print(f"round {rounds}: {_DESCRIBED} requests for each operation", flush=True)
    for one in both:
        one.close()


def made(fuzzers: tuple[Fuzzer, Fuzzer], minutes: float, turn: int) -> None:
    end = time.monotonic() + minutes * 60
    while time.monotonic() < end:
        print(f"seed {turn}", flush=True)
        attack(fuzzers[0 if turn % 4 else 1], turn)
        turn += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--described", action="store_true")
    chosen = parser.parse_args()
    with two("/var/tmp") as fuzzers:
        if chosen.described:
            described(fuzzers, chosen.minutes)
        else:
            made(fuzzers, chosen.minutes, chosen.seed)
        statuses = sum((Counter(one.statuses) for one in fuzzers), Counter[int]())
        memory = max(one.memory() for one in fuzzers) >> 20
        print(f"{statuses.total()} answers: {dict(sorted(statuses.items()))}; {memory} MB at most")


if __name__ == "__main__":
    main()
