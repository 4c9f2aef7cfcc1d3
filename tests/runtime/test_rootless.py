"""A container by an ordinary user: one mapped ID by itself, ranges through newuidmap(1)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.containers import make_bundle

pytestmark = pytest.mark.root

USER = 1234
PROGRAM = """
import sys
from pathlib import Path
from sampan.errors import SampanError
from tests.runtime.containers import NAMESPACES, run
size = int(sys.argv[2])
maps = [{"containerID": 0, "hostID": 1234, "size": size}]
linux = {
    "namespaces": [{"type": name} for name in (*NAMESPACES, "user")],
    "uidMappings": maps,
    "gidMappings": maps,
}
script = "id -u; cat /proc/self/setgroups /proc/self/uid_map; touch /tmp/made; ls /dev"
try:
    code, output = run(Path(sys.argv[1]), "sh", "-c", script, linux=linux)
except SampanError as error:
    sys.exit(f"{type(error).__name__}: {error.message}")
print(output)
sys.exit(code)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = make_bundle(tmp_path)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o5 != 0o5:
            parent.chmod(parent.stat().st_mode | 0o5)
    for top, names, files in os.walk(directory):
        for name in (".", *names, *files):
            os.lchown(os.path.join(top, name), USER, USER)
    return directory


def as_user(bundle: Path, size: int) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}/src:{root}", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(bundle), str(size)],
            user=USER, group=USER, extra_groups=[], env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except PermissionError:
        pytest.skip(f"{sys.executable} cannot be executed by other users")
    if "ModuleNotFoundError" in result.stderr or "Permission denied" in result.stderr[:80]:
        pytest.skip("this checkout cannot be read by other users")
    return result


def test_one_id_is_mapped_without_help_and_setgroups_is_lost(bundle: Path) -> None:
    result = as_user(bundle, 1)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split("\n")
    assert lines[:2] == ["0", "deny"]
    assert lines[2].split() == ["0", str(USER), "1"]
    assert "null" in lines
    assert (bundle / "rootfs/tmp/made").stat().st_uid == USER


def test_a_range_that_nobody_granted_is_refused_by_the_helper(bundle: Path) -> None:
    result = as_user(bundle, 5)
    assert result.returncode != 0
    assert "newgidmap" in result.stderr
    assert "PermissionDenied" in result.stderr or "Unavailable" in result.stderr
