"""Classic BPF for seccomp: instructions, 64-bit comparisons, and a decision tree over numbers.

A filter sees ``struct seccomp_data`` (seccomp(2)): ``nr`` at 0, ``arch`` at 4, and six 64-bit
arguments from 16, of which classic BPF can load 32 bits at a time. Jumps go forward only and
their conditional offsets have 8 bits, so a subtree longer than that is entered by a long jump.

A decision tree costs log2(n) comparisons a call where a list costs n; it also makes loading
cheap, because since Linux 5.11 the kernel emulates the filter once for every call number to find
those that are always allowed (``seccomp_cache_prepare``).
"""

from __future__ import annotations

import struct

__all__ = [
    "JEQ",
    "JGE",
    "Code",
    "alternative",
    "branch",
    "condition",
    "load_arch",
    "load_number",
    "pack",
    "ret",
    "shared",
    "tree",
]

# <linux/bpf_common.h>: class | size/operation | mode/source
_LD_W_ABS = 0x20
_ALU_AND_K = 0x54
_RET_K = 0x06
_JA = 0x05
JEQ = 0x15
_JGT = 0x25
JGE = 0x35

_LONGEST = 255
_ARGS_OFFSET = 16

Instruction = tuple[int, int, int, int]  # code, jt, jf, k
Code = list[Instruction]

# Marks in jt/jf while a condition is assembled: leave by its end, or by the next alternative.
_PASS = -1
_FAIL = -2


def load_number() -> Code:
    """A = nr."""
    return [(_LD_W_ABS, 0, 0, 0)]


def load_arch() -> Code:
    """A = arch (an AUDIT_ARCH_ value)."""
    return [(_LD_W_ABS, 0, 0, 4)]


def ret(value: int) -> Code:
    """Return a SECCOMP_RET_ value."""
    return [(_RET_K, 0, 0, value)]


def branch(test: int, value: int, then: Code, otherwise: Code) -> Code:
    """``if A <test> value: then else: otherwise``; ``then`` and ``otherwise`` both end in ret."""
    if len(otherwise) <= _LONGEST:
        return [(test, len(otherwise), 0, value), *otherwise, *then]
    return [(test, 0, 1, value), (_JA, 0, 0, len(otherwise)), *otherwise, *then]


def tree(ranges: list[tuple[int, Code]]) -> Code:
    """Choose by A among ranges ``(first number, code)``, sorted; the first starts at 0."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    return branch(JGE, ranges[middle][0], tree(ranges[middle:]), tree(ranges[:middle]))


def condition(op: str, index: int, value: int, value_two: int, wide: bool) -> Code:
    """One comparison of argument ``index``; its jumps still carry marks for ``alternative``.

    ``wide`` compares 64 bits, else the low 32 (the whole argument of a 32-bit ABI). Operators are
    seccomp_rule_add(3)'s without their prefix; MASKED_EQ means ``arg & value == value_two``.
    """
    low_word, high_word = _ARGS_OFFSET + 8 * index, _ARGS_OFFSET + 8 * index + 4
    mask = 0xFFFFFFFF_FFFFFFFF
    if op == "MASKED_EQ":
        mask, value, op = value, value_two & value, "EQ"
    high_mask, low_mask = mask >> 32, mask & 0xFFFFFFFF
    high, low = value >> 32 & 0xFFFFFFFF, value & 0xFFFFFFFF

    def load(offset: int, bits: int) -> Code:
        loaded: Code = [(_LD_W_ABS, 0, 0, offset)]
        return loaded if bits == 0xFFFFFFFF else [*loaded, (_ALU_AND_K, 0, 0, bits)]

    test, hit, miss = {
        "EQ": (JEQ, _PASS, _FAIL),
        "NE": (JEQ, _FAIL, _PASS),
        "GT": (_JGT, _PASS, _FAIL),
        "GE": (JGE, _PASS, _FAIL),
        "LE": (_JGT, _FAIL, _PASS),
        "LT": (JGE, _FAIL, _PASS),
    }[op]
    code: Code = []
    if wide:
        code += load(high_word, high_mask)
        if test == JEQ:
            code.append((JEQ, 0, miss, high))
        else:
            code += [(_JGT, hit, 0, high), (JEQ, 0, miss, high)]
    return [*code, *load(low_word, low_mask), (test, hit, miss, low)]


def alternative(conditions: list[Code], value: int) -> Code:
    """``if all conditions hold: return value``, else fall through to what follows."""
    length = sum(len(code) for code in conditions) + 1
    result: Code = []
    for code in conditions:
        end = len(result) + len(code)
        for test, jt, jf, k in code:
            here = len(result) + 1
            marks = {_PASS: end - here, _FAIL: length - here}
            result.append((test, marks.get(jt, jt), marks.get(jf, jf), k))
    return result + ret(value)


def shared(code: Code) -> Code:
    """The same program with one ``ret`` of each value where a jump reaches it, instead of one at
    every end: half the instructions, which the kernel translates with each load.

    ``code`` as it is where a jump would become longer than one can be.
    """
    backward: Code = []  # what is done, the last instruction first
    place: dict[int, int] = {}  # of an instruction in it
    returns: dict[int, int] = {}  # the place of the nearest ``ret`` by its value

    def offset(target: int) -> int:
        """From the instruction that is to be next, to what was at ``target``."""
        end, _, _, value = code[target]
        if end != _RET_K:
            return len(backward) - 1 - place[target]
        if value not in returns or len(backward) - 1 - returns[value] > _LONGEST:
            returns[value] = len(backward)
            backward.append(code[target])
        return len(backward) - 1 - returns[value]

    for i in range(len(code) - 1, -1, -1):
        test, jt, jf, value = code[i]
        if test == _RET_K:
            if not i or code[i - 1][0] in (_LD_W_ABS, _ALU_AND_K):
                returns[value] = place[i] = len(backward)
                backward.append(code[i])
        elif test == _JA:
            target = i + 1 + value
            if code[target][0] == _RET_K:
                place[i] = len(backward)
                backward.append(code[target])
            else:
                distance = offset(target)
                place[i] = len(backward)
                backward.append((_JA, 0, 0, distance))
        elif test in (_LD_W_ABS, _ALU_AND_K):
            place[i] = len(backward)
            backward.append(code[i])
        else:
            done = -1
            while len(backward) != done:  # Either may put a ``ret`` between here and the other.
                done = len(backward)
                if_true, if_false = offset(i + 1 + jt), offset(i + 1 + jf)
            if max(if_true, if_false) > _LONGEST:
                return code
            place[i] = len(backward)
            backward.append((test, if_true, if_false, value))
    return backward[::-1]


def pack(code: Code) -> bytes:
    """An array of ``struct sock_filter`` in native order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
