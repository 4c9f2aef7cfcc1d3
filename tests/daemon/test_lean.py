"""Stand-ins for modules: nothing is loaded before it is used, and then it is the module."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from sampan.daemon.lean import Lean

with Lean(without=("ssl",), later=("inspect", "colorsys")):
    import asyncio
    import colorsys
assert "colorsys" not in sys.modules and "inspect" not in sys.modules
assert "ssl" not in sys.modules and asyncio.sslproto.ssl is None
assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
import colorsys as again
assert again.rgb_to_hsv is colorsys.rgb_to_hsv and again is sys.modules["colorsys"]
assert not asyncio.iscoroutinefunction(print)
assert "inspect" in sys.modules
try:
    colorsys.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise SystemExit("an attribute that is not there was found")
import ssl
"""


def test_a_module_is_loaded_when_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
