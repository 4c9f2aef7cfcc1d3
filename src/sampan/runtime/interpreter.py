"""This process's interpreter, and what a sealed copy of it needs to find its own parts.

A program in memory has no directory: what the dynamic loader would look for relative to it
(``$ORIGIN``, ld.so(8)), as relocatable builds of Python do for their library, must be named.
"""

from __future__ import annotations

import os
import sys

__all__ = ["library_path", "program"]


def program() -> str:
    """The real interpreter, below any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def library_path(interpreter: str) -> dict[str, str]:
    """The environment variable that names the directory of the interpreter's shared library, or
    nothing when it has none of its own."""
    directory = os.path.join(os.path.dirname(os.path.dirname(interpreter)), "lib")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not os.path.exists(os.path.join(directory, f"libpython{version}.so.1.0")):
        return {}
    return {"LD_LIBRARY_PATH": directory}
