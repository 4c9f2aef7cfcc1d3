"""Bad input at the command line's door: named, refused, and nothing left of it.

``config.json`` is walked by its own types: a value of every wrong kind in every field.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import pytest

import sampan
from sampan.errors import InvalidArgument
from sampan.oci.record import Record
from sampan.oci.runtime import Spec
from sampan.runtime.spec import load
from tests.runtime.command.runtime import Runtime, groups_of, make_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

_SAMPLES: dict[object, object] = {str: "x", int: 1, bool: True, float: 1.5, object: 1}
_WRONG: dict[object, tuple[object, ...]] = {
    str: (7, True, [], {}),
    int: ("1", 1.5, True, [], {}),
    bool: (1, "true", [], {}),
    float: ("1", True, [], {}),
    object: (),
}
_NO_LIST: tuple[object, ...] = ("x", 7, True, {"x": 1})
_NO_OBJECT: tuple[object, ...] = ("x", 7, True, ["x"])


def bare(kind: Any) -> Any:
    """``T`` of ``T | None``."""
    if get_origin(kind) in (tuple, dict) or isinstance(kind, type):
        return kind
    return next(one for one in get_args(kind) if one is not type(None))


def sample(kind: Any) -> Any:
    """A value of the right shape in which every field is there."""
    kind = bare(kind)
    if get_origin(kind) is tuple:
        return [sample(get_args(kind)[0])]
    if get_origin(kind) is dict:
        return {"key": sample(get_args(kind)[1])}
    if isinstance(kind, type) and issubclass(kind, Record):
        types = kind._field_types()
        return {key: sample(types[name]) for name, key in fields(kind)}
    return _SAMPLES[kind]


def fields(kind: type[Record]) -> list[tuple[str, str]]:
    def camel(name: str) -> str:
        head, *rest = name.split("_")
        return head + "".join(part.capitalize() for part in rest)

    return [(name, kind.json_names.get(name) or camel(name)) for name in kind._names]


Step = str | int


def wrongs(kind: Any, place: str, path: tuple[Step, ...]) -> Iterator[tuple[str, Any, object]]:
    """(the place an error must name, the path to it, a wrong value), for everything below."""
    kind = bare(kind)
    if get_origin(kind) is tuple:
        yield from ((place, path, value) for value in _NO_LIST)
        yield from wrongs(get_args(kind)[0], f"{place}[0]", (*path, 0))
    elif get_origin(kind) is dict:
        yield from ((place, path, value) for value in _NO_OBJECT)
        yield from wrongs(get_args(kind)[1], f"{place}.key", (*path, "key"))
    elif isinstance(kind, type) and issubclass(kind, Record):
        if place:
            yield from ((place, path, value) for value in _NO_OBJECT)
        types = kind._field_types()
        for name, key in fields(kind):
            below = f"{place}.{key}" if place else key
            if name not in kind._defaults:
                yield below, (*path, key), None
            yield from wrongs(types[name], below, (*path, key))
    else:
        yield from ((place, path, value) for value in _WRONG[kind])


def with_value(path: tuple[Step, ...], value: object) -> dict[str, Any]:
    document: dict[str, Any] = sample(Spec)
    target: Any = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return document


def test_the_sample_has_the_right_shape() -> None:
    Spec.from_json(sample(Spec))


def test_every_field_of_the_wrong_kind_is_named_by_its_path() -> None:
    places = set()
    for place, path, value in wrongs(Spec, "", ()):
        with pytest.raises(InvalidArgument) as caught:
            Spec.from_json(with_value(path, value))
        said = caught.value.message
        assert said.startswith(f"{place}: "), (place, value, said)
        assert ("missing" if value is None else "expected") in said
        places.add(place)
    assert len(places) > 250
    assert "linux.resources.blockIO.throttleReadBpsDevice[0].rate" in places


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("ociVersion",), 1),
        (("root", "path"), []),
        (("process", "args"), "true"),
        (("process", "user", "uid"), "0"),
        (("mounts", 0, "destination"), None),
        (("linux", "namespaces"), {}),
        (("linux", "resources", "memory", "limit"), "1g"),
        (("hooks", "prestart"), {"path": "/bin/true"}),
    ],
)
def test_create_names_it_and_leaves_nothing(
    runtime: Runtime, tmp_path: Path, path: tuple[Step, ...], value: object
) -> None:
    bundle = make_bundle(tmp_path / "bad", "true")
    config: Any = json.loads((bundle / "config.json").read_text())
    target = config
    for step, following in itertools.pairwise(path):
        if isinstance(target, dict):
            target = target.setdefault(step, [{}] if isinstance(following, int) else {})
        else:
            target = target[step]
    target[path[-1]] = value
    (bundle / "config.json").write_text(json.dumps(config))
    place = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path).lstrip(".")
    assert f"{place}: " in runtime.fails("create", "-b", str(bundle), "bad")
    assert not runtime.root.exists() or os.listdir(runtime.root) == []
    assert groups_of(bundle) == []


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(InvalidArgument, match=r"process\.args\[0\]: not a text"):
        Spec.from_json(with_value(("process", "args", 0), "\ud800"))
    Spec.from_json(with_value(("process", "args", 0), "\u00e9\U0001f6a3"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ("[" * 100_000, "not JSON"),
        ('{"ociVersion": "1.0.0"', "not JSON"),
        ("\xff\xfe", "not JSON"),
    ],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(InvalidArgument, match=said):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"linux": {"resources": {"cpu": {"period": 5}}}}, "cpu"),
        ({"linux": {"resources": {"cpu": {"cpus": "4000"}}}}, "cpus"),
        ({"linux": {"resources": {"memory": {"swappiness": 900}}}}, "swappiness"),
        (
            {"process": {"args": ["true"], "cwd": "/", "oomScoreAdj": 99999}},
            "oomScoreAdj",
        ),
        ({"linux": {"cgroupsPath": "/../../up"}}, "/../../up"),
        ({"linux": {"sysctl": {"kernel.core_pattern": "|/x"}}}, "kernel.core_pattern"),
        ({"process": {"args": ["true"], "cwd": "/proc/self/fd/3"}}, "/proc/self/fd/3"),
        ({"mounts": [{"destination": "/proc/sys", "type": "tmpfs"}]}, "/proc/sys"),
    ],
)
def test_what_the_kernel_or_the_rules_refuse_is_named_and_leaves_nothing(
    runtime: Runtime, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    bundle = make_bundle(tmp_path / "bad", "true")
    config = json.loads((bundle / "config.json").read_text())
    mounts = [*config["mounts"], *changes.pop("mounts", [])]
    for key, value in changes.items():
        config[key] = {**config[key], **value}
    config["mounts"] = mounts
    (bundle / "config.json").write_text(json.dumps(config))
    assert said in runtime.fails("create", "-b", str(bundle), "bad")
    assert not runtime.root.exists() or os.listdir(runtime.root) == []
    assert groups_of(bundle) == []


_UNPRIVILEGED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
# A user namespace of this test's own, in which one uid is mapped and no further one may be made.
user = os.getuid(), os.getgid()
if libc.unshare(0x10000000):
    sys.exit("skip: no user namespaces at all")
for name, text in (
    ("setgroups", "deny"), ("uid_map", f"1000 {user[0]} 1"), ("gid_map", f"1000 {user[1]} 1"),
):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
libc.prctl(24, 21, 0, 0, 0)
os.execv(sys.executable, sys.argv[1:])
"""


@pytest.mark.parametrize("own", [True, False])
def test_neither_root_nor_user_namespaces(tmp_path: Path, own: bool) -> None:
    """Whether the configuration asks for a user namespace or not: what is missing is said."""
    kinds = ["mount", "pid", "uts", *(["user"] if own else [])]
    maps = [{"containerID": 0, "hostID": 1000, "size": 1}]
    bundle = make_bundle(tmp_path / "bad", "true")
    config = json.loads((bundle / "config.json").read_text())
    config["linux"] = {"namespaces": [{"type": kind} for kind in kinds]}
    if own:
        config["linux"] |= {"uidMappings": maps, "gidMappings": maps}
    (bundle / "config.json").write_text(json.dumps(config))
    for top, directories, files in os.walk(tmp_path):
        for name in (".", *directories, *files):
            os.lchown(os.path.join(top, name), 4321, 4321)
    parent = tmp_path
    while parent != parent.parent:
        parent.chmod(parent.stat().st_mode | 0o5)
        parent = parent.parent
    source = str(Path(sampan.__file__).parents[1])
    program = (
        f"import sys; sys.path.insert(0, {source!r}); "
        "from sampan.runtime.command.main import main; sys.exit(main())"
    )
    words = ["--root", str(tmp_path / "state"), "create", "-b", str(bundle), "bad"]
    done = subprocess.run(
        [
            sys.executable, "-I", "-S", "-c", _UNPRIVILEGED,
            sys.executable, "-I", "-S", "-c", program, *words,
        ],
        user=4321, group=4321, extra_groups=[], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.stderr.startswith("skip") or "ModuleNotFoundError" in done.stderr:
        pytest.skip(done.stderr.strip() or "this checkout cannot be read by other users")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "namespace" in done.stderr and "root" in done.stderr
    state = tmp_path / "state"
    assert not state.exists() or os.listdir(state) == []
