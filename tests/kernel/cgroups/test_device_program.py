"""The device program, instruction by instruction, against the rules read literally."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from sampan.kernel.bpf import device_program
from sampan.kernel.cgroups.devices import normal, table
from sampan.oci.runtime import DeviceRule

_BITS = {"m": 1, "r": 2, "w": 4}
_KINDS = {"b": 1, "c": 2}

_numbers = st.sampled_from([None, -1, 0, 1, 2, (1 << 31) + 5, (1 << 32) - 1])
_rules = st.builds(
    DeviceRule,
    allow=st.booleans(),
    type=st.sampled_from([None, "a", "b", "c", "u"]),
    major=_numbers,
    minor=_numbers,
    access=st.sampled_from([None, "", "r", "w", "m", "rw", "wr", "rwm"]),
)
_requests = st.tuples(
    st.sampled_from("bc"),
    st.sampled_from([0, 1, 2, 3, (1 << 31) + 5, (1 << 32) - 1]),
    st.sampled_from([0, 1, 2, 3, (1 << 31) + 5, (1 << 32) - 1]),
    st.sampled_from(["r", "w", "m", "rw"]),
)

Request = tuple[str, int, int, str]


def run(program: bytes, request: Request) -> int:
    """An interpreter for the few instructions that are used; every path must end in an exit."""
    kind, major, minor, access = request
    wanted = sum(_BITS[letter] for letter in access)
    context = struct.pack("=III", wanted << 16 | _KINDS[kind], major, minor)
    registers = [0] * 11
    at = 0
    while True:
        code, pair, offset, value = struct.unpack_from("=BBhI", program, at * 8)
        target, source = pair & 15, pair >> 4
        at += 1
        if code == 0x61:
            assert source == 1
            registers[target] = struct.unpack_from("=I", context, offset)[0]
        elif code == 0x57:
            registers[target] &= value
        elif code == 0x77:
            registers[target] >>= value
        elif code == 0xB7:
            registers[target] = value
        elif code == 0x05:
            at += offset
        elif code == 0x56:
            at += offset if registers[target] & 0xFFFFFFFF != value else 0
        elif code == 0x46:
            at += offset if registers[target] & value else 0
        else:
            assert code == 0x95
            return registers[0]


def literally(rules: list[DeviceRule], request: Request) -> bool:
    """Access by access: the last rule that matches decides; none: no."""
    kind, major, minor, access = request
    verdicts = []
    for letter in access:
        verdict = False
        for rule in rules:
            kinds = {None: "bc", "a": "bc", "u": "c"}.get(rule.type, rule.type or "")
            if (
                kind in kinds
                and rule.major in (None, -1, major)
                and rule.minor in (None, -1, minor)
                and letter in (rule.access or "rwm")
            ):
                verdict = rule.allow
        verdicts.append(verdict)
    return all(verdicts)


@given(st.lists(_rules, max_size=8), st.lists(_requests, min_size=1, max_size=20))
def test_the_program_decides_as_the_rules_say(
    rules: list[DeviceRule], requests: list[Request]
) -> None:
    program = device_program(rules)
    for request in requests:
        assert bool(run(program, request)) == literally(rules, request), request


@given(st.lists(_rules, max_size=6), _requests)
def test_the_v1_table_says_the_same_or_is_refused(
    rules: list[DeviceRule], request: Request
) -> None:
    from sampan.errors import NotSupported

    try:
        default, exceptions = table(normal(rules))
    except NotSupported:
        return
    kind, major, minor, access = request
    for letter in access:
        matched = any(
            kind == of and numbers[0] in (None, major) and numbers[1] in (None, minor)
            for (of, *numbers), letters in exceptions.items()
            if letter in letters
        )
        assert (default != matched) == literally(rules, (kind, major, minor, letter))


@given(st.lists(_rules, max_size=8))
def test_every_instruction_can_be_reached(rules: list[DeviceRule]) -> None:
    """The kernel's verifier refuses a program with code that no path leads to."""
    program = device_program(rules)
    code = [struct.unpack_from("=BBhI", program, at) for at in range(0, len(program), 8)]
    reached: set[int] = set()
    waiting = [0]
    while waiting:
        at = waiting.pop()
        if at in reached:
            continue
        reached.add(at)
        operation, _, offset, _ = code[at]
        if operation == 0x95:
            continue
        if operation != 0x05:
            waiting.append(at + 1)
        if operation in (0x05, 0x56, 0x46):
            waiting.append(at + 1 + offset)
    assert reached == set(range(len(code)))
