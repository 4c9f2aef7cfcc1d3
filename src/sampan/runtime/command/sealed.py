"""Executing ourselves once more from a sealed copy in memory (the class of CVE-2019-5736).

While a process of ours is inside a container, ``/proc/PID/exe`` of it is within the container's
reach: were that the machine's own interpreter, root in the container could overwrite it. So the
commands that enter containers run from a memfd that nobody can write any more. It also leaves the
site packages and the environment's ``PYTHON*`` behind (``-I -S``).
"""

from __future__ import annotations

import os
import sys

from sampan.kernel.memory import sealed_copy
from sampan.runtime.interpreter import library_path, program

__all__ = ["ensure"]

_NAME = "sampan-runtime"
_PROGRAM = (
    "import sys; sys.path.insert(0, {path!r}); "
    "from sampan.runtime.command.main import main; sys.exit(main())"
)


def ensure(words: list[str]) -> None:
    """Return in a process that runs from a sealed copy: this one, or it is replaced here."""
    if os.readlink("/proc/self/exe").startswith(f"/memfd:{_NAME}"):
        return
    interpreter = program()
    package = os.path.dirname(os.path.abspath(__file__))
    for _ in range(3):
        package = os.path.dirname(package)
    fd = sealed_copy(interpreter, _NAME)
    # The interpreter finds its standard library by the name it is called by.
    arguments = [interpreter, "-I", "-S", "-X", "utf8", "-c", _PROGRAM.format(path=package)]
    sys.stdout.flush()
    os.execve(fd, [*arguments, *words], {**os.environ, **library_path(interpreter)})
