"""Seccomp: which system calls a process may make (seccomp(2), runtime-spec "Seccomp").

``compiler`` turns a profile into BPF, ``loading`` caches it by digest and installs it.
``tables`` holds the numbers. The kernel is called in ``loading`` only.
"""

from sampan.kernel.seccomp.compiler import ACTIONS, ARCHITECTURES, OPERATORS, compile_program
from sampan.kernel.seccomp.loading import FLAGS, Filter, Program, compiled, load, supported_flags

__all__ = [
    "ACTIONS",
    "ARCHITECTURES",
    "FLAGS",
    "OPERATORS",
    "Filter",
    "Program",
    "compile_program",
    "compiled",
    "load",
    "supported_flags",
]
