"""Programs with shared returns say what those with a return at every end say."""

from __future__ import annotations

import random

import pytest

from sampan.kernel.seccomp import assembler
from sampan.kernel.seccomp.assembler import Code
from tests.kernel.seccomp.machine import run

OPERATORS = ("EQ", "NE", "GT", "GE", "LT", "LE", "MASKED_EQ")
EDGES = (0, 1, 7, 1 << 32, (1 << 32) + 1, (1 << 64) - 1)


def _leaf(dice: random.Random, values: list[int]) -> Code:
    """A return, or conditions before one."""
    code: Code = []
    for _ in range(dice.choice((0, 0, 0, 1, 1, 4, 30))):
        tests = [
            assembler.condition(
                dice.choice(OPERATORS),
                dice.randrange(6),
                dice.choice(EDGES),
                dice.choice(EDGES),
                dice.random() < 0.7,
            )
            for _ in range(dice.randrange(1, 4))
        ]
        code += assembler.alternative(tests, dice.choice(values))
    return code + assembler.ret(dice.choice(values))


@pytest.mark.parametrize("seed", range(30))
def test_shared_returns_change_nothing(seed: int) -> None:
    dice = random.Random(seed)
    values = [dice.randrange(1 << 32) for _ in range(dice.choice((1, 2, 5, 300)))]
    count = dice.choice((1, 2, 10, 300))
    ranges = [(number * 3, _leaf(dice, values)) for number in range(count)]
    whole = assembler.load_number() + assembler.tree(ranges)
    small = assembler.shared(whole)
    assert len(small) <= len(whole)
    before, after = assembler.pack(whole), assembler.pack(small)
    for _ in range(1000):
        number = dice.randrange(count * 3 + 3)
        arguments = tuple(dice.choice(EDGES) for _ in range(6))
        assert run(after, 1, number, arguments) == run(before, 1, number, arguments)


def test_a_lone_return_stays() -> None:
    assert assembler.shared(assembler.ret(7)) == assembler.ret(7)
