"""Hooks: where they run, in which order, what they are given, and what their failure undoes."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import SampanError
from sampan.kernel import cgroups
from sampan.oci.runtime import Hook
from sampan.runtime import hooks
from tests.runtime.containers import Run, make_bundle, spec_of

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def script(text: str, **changes: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", text], "env": ["PATH=/bin:/usr/bin"], **changes}


def hook(text: str, **changes: Any) -> Hook:
    return Hook.from_json(script(text, **changes))


@pytest.mark.root
def test_each_kind_runs_in_its_order_and_place(bundle: Path) -> None:
    log = bundle / "rootfs/log"
    log.unlink(missing_ok=True)
    outside, inside = str(log), "/log"
    wanted = {
        kind: [
            script(f"echo {kind} 1 $(readlink /proc/self/ns/net) >> {path}"),
            script(f"echo {kind} 2 $(hostname) >> {path}"),
        ]
        for kind, path in zip(
            KINDS, (outside, outside, outside, inside, outside, outside), strict=True
        )
    }
    container = Run(bundle, spec_of("sleep", "100", hostname="boat", hooks=wanted))
    network = os.readlink(f"/proc/{container.child.pid}/ns/net")
    lines = log.read_text().split("\n")
    assert [line.split()[0] for line in lines if line] == [
        "prestart", "prestart", "createRuntime", "createRuntime", "createContainer",
        "createContainer",
    ]  # fmt: skip
    container.child.start()
    container.child.abort()
    os.close(container.output_fd)
    entries = [line.split() for line in log.read_text().split("\n") if line]
    assert [entry[:2] for entry in entries] == [[kind, n] for kind in KINDS for n in ("1", "2")]
    places = {entry[0]: entry[2] == network for entry in entries if entry[1] == "1"}
    assert places == {
        "prestart": False,
        "createRuntime": False,
        "createContainer": True,
        "startContainer": True,
        "poststart": False,
        "poststop": False,
    }


@pytest.mark.root
def test_the_state_is_on_standard_input(bundle: Path, tmp_path: Path) -> None:
    names = ("createRuntime", "createContainer", "poststart", "poststop")
    wanted = {kind: [script(f"cat > {tmp_path}/{kind}")] for kind in names}
    wanted["startContainer"] = [script("cat > /startContainer")]
    spec = spec_of("sleep", "100", hooks=wanted, annotations={"a": "b"})
    container = Run(bundle, spec, id="ship")
    pid = container.child.pid
    container.child.start()
    container.child.abort()
    os.close(container.output_fd)
    found = {kind: json.loads((tmp_path / kind).read_text()) for kind in names}
    found["startContainer"] = json.loads((bundle / "rootfs/startContainer").read_text())
    expected = {
        "ociVersion": "1.2.0",
        "id": "ship",
        "bundle": str(bundle),
        "annotations": {"a": "b"},
    }
    assert found["createRuntime"] == {**expected, "status": "creating", "pid": pid}
    assert found["createContainer"] == {**expected, "status": "creating", "pid": 1}
    assert found["startContainer"] == {**expected, "status": "created", "pid": 1}
    assert found["poststart"] == {**expected, "status": "running", "pid": pid}
    assert found["poststop"] == {**expected, "status": "stopped"}


@pytest.mark.root
def test_a_start_hook_without_an_environment_has_the_containers(bundle: Path) -> None:
    one = {"path": "/bin/sh", "args": ["sh", "-c", "echo $NAME > /environment"]}
    process = {"env": ["PATH=/bin", "NAME=boat"]}
    container = Run(bundle, spec_of("true", hooks={"startContainer": [one]}, process=process))
    assert container.finish()[0] == 0
    assert (bundle / "rootfs/environment").read_text() == "boat\n"


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS[:5])
def test_a_failing_hook_ends_the_container_and_runs_poststop(
    bundle: Path, tmp_path: Path, kind: str
) -> None:
    group = cgroups.detect().group("/sampan-test-hooks")
    stopped = tmp_path / "stopped"
    wanted = {
        kind: [script("echo because; exit 4")],
        "poststop": [script(f"touch {stopped}")],
    }
    spec = spec_of("sleep", "100", hooks=wanted)
    with pytest.raises(SampanError, match=rf"{kind}\[0\].*exit status 4: because"):
        container = Run(bundle, spec, group=group)
        container.child.start()
    assert stopped.exists()
    assert not group.exists()
    if kind in ("startContainer", "poststart"):
        os.close(container.output_fd)


def test_only_the_hooks_own_environment_is_passed() -> None:
    os.environ["SAMPAN_SECRET"] = "x"
    try:
        hooks.run("poststart", [hook('test -z "$SAMPAN_SECRET"')], b"{}")
    finally:
        del os.environ["SAMPAN_SECRET"]


def test_only_standard_descriptors_are_passed() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        with pytest.raises(SampanError, match=r"0 1 2 3$"):
            hooks.run(
                "poststart",
                [hook("echo $(ls /proc/self/fd); false")],
                b"{}",
                (),
                hooks.inheritable_descriptors(),
            )
    finally:
        os.close(fd)


def test_a_hook_that_takes_too_long_is_killed_with_its_children() -> None:
    began = time.monotonic()
    with pytest.raises(SampanError, match="more than 1 s"):
        hooks.run("poststart", [hook("sleep 50 & sleep 50", timeout=1)], b"{}")
    assert time.monotonic() - began < 40


def test_a_hook_that_cannot_be_executed() -> None:
    with pytest.raises(SampanError, match="/no/such/hook: cannot be executed"):
        hooks.run("poststart", [Hook(path="/no/such/hook")], b"{}")


def test_a_hook_need_not_read_a_large_state_and_may_say_much() -> None:
    hooks.run("poststart", [hook("head -c 300000 /dev/zero")], b"x" * 1_000_000)


def test_a_daemon_left_by_a_hook_does_not_hold_it_up() -> None:
    began = time.monotonic()
    hooks.run("poststart", [hook("sleep 20 & exit 0")], b"{}")
    assert time.monotonic() - began < 15


def test_failing_poststop_hooks_are_warnings_and_the_rest_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    warnings = hooks.run_poststop([hook("exit 3"), hook(f"touch {ran}")], b"{}")
    assert len(warnings) == 1 and "exit status 3" in warnings[0]
    assert ran.exists()
