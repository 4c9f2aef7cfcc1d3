"""create, start, state, kill, delete, list: each state's rules, and what is left after errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.runtime.command.runtime import Runtime, groups_of, make_bundle

pytestmark = pytest.mark.root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "one")


@pytest.mark.v2
def test_the_whole_life_of_a_container(runtime: Runtime, tmp_path: Path, bundle: Path) -> None:
    pid_file = tmp_path / "pid"
    runtime.quiet("create", "--bundle", str(bundle), "--pid-file", str(pid_file), "one")
    state = runtime.state("one")
    assert state["status"] == "created"
    assert pid_file.read_text() == str(state["pid"])
    assert {key: state[key] for key in ("id", "ociVersion", "bundle", "rootfs", "owner")} == {
        "id": "one",
        "ociVersion": "1.3.0",
        "bundle": str(bundle),
        "rootfs": str(bundle / "rootfs"),
        "owner": "root",
    }
    assert "only a created one" not in runtime.ok("start", "one")
    assert runtime.status("one") == "running"
    assert "only a created one can be started" in runtime.fails("start", "one")
    assert "is running: stop it first" in runtime.fails("delete", "one")
    runtime.ok("kill", "one")
    runtime.wait("one", "stopped")
    assert runtime.state("one")["pid"] == 0
    assert "container not running" in runtime.fails("kill", "one", "KILL")
    runtime.ok("kill", "--all", "one", "KILL")
    runtime.ok("delete", "one")
    assert "container one does not exist" in runtime.fails("state", "one")
    assert os.listdir(runtime.root) == []
    assert groups_of(bundle) == []


def test_an_id_is_taken_once(runtime: Runtime, bundle: Path) -> None:
    runtime.quiet("create", "-b", str(bundle), "one")
    assert "one exists already" in runtime.fails("create", "-b", str(bundle), "one")
    assert runtime.status("one") == "created"


@pytest.mark.parametrize("name", ["a/b", "..", "", "ä", "a b"])
def test_names_that_are_refused(runtime: Runtime, bundle: Path, name: str) -> None:
    assert "container ID" in runtime.fails("create", "-b", str(bundle), "--", name)


def test_a_created_container_may_be_killed_or_deleted(
    runtime: Runtime, tmp_path: Path, bundle: Path
) -> None:
    runtime.quiet("create", "-b", str(bundle), "one")
    pid = runtime.state("one")["pid"]
    runtime.ok("delete", "one")
    assert not Path(f"/proc/{pid}/ns").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    assert groups_of(bundle) == []
    other = make_bundle(tmp_path / "two")
    runtime.quiet("create", "-b", str(other), "two")
    runtime.ok("kill", "two", "SIGKILL")
    runtime.wait("two", "stopped")
    assert "only a created one" in runtime.fails("start", "two")


def test_force_deletes_what_runs_and_minds_nothing_missing(runtime: Runtime, bundle: Path) -> None:
    runtime.quiet("run", "--detach", "-b", str(bundle), "one")
    runtime.ok("delete", "--force", "one")
    runtime.ok("delete", "-f", "one")
    assert "does not exist" in runtime.fails("delete", "one")
    assert groups_of(bundle) == []


def test_force_clears_a_half_made_container(runtime: Runtime) -> None:
    (runtime.root / "half").mkdir(parents=True)
    (runtime.root / "half/exec.fifo").touch()
    runtime.ok("delete", "--force", "half")
    assert os.listdir(runtime.root) == []


def test_later_edits_of_the_configuration_have_no_effect(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", "sh", "-c", "exit 5")
    runtime.quiet("create", "-b", str(bundle), "one")
    (bundle / "config.json").unlink()
    runtime.ok("start", "one")
    runtime.wait("one", "stopped")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": {"args": ["nosuch"], "cwd": "/", "env": ["PATH=/bin"]}}, 'exec: "nosuch"'),
        ({"process": {"args": ["/etc"], "cwd": "/"}}, "permission denied"),
        ({"root": {"path": "nowhere"}}, "nowhere"),
        ({"mounts": [{"destination": "/x", "type": "bind", "source": "/nope"}]}, "/nope"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}, "namespaces"),
        ({"ociVersion": "2.0.0"}, "ociVersion"),
        ({"hooks": {"createRuntime": [{"path": "/bin/false"}]}}, "createRuntime"),
    ],
)
def test_a_create_that_fails_leaves_nothing(
    runtime: Runtime, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    bundle = make_bundle(tmp_path / "bad", **changes)
    assert message in runtime.fails("create", "-b", str(bundle), "bad")
    assert not runtime.root.exists() or os.listdir(runtime.root) == []
    assert groups_of(bundle) == []


def test_hooks_run_in_their_places(runtime: Runtime, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    script = tmp_path / "hook"
    script.write_text(
        f'#!/bin/sh\nread state\necho "$1 $(echo "$state" | grep -o \'"status": "[a-z]*"\')"'
        f" >>{journal}\n"
    )
    script.chmod(0o755)
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    hooks = {kind: [{"path": str(script), "args": ["hook", kind]}] for kind in kinds}
    bundle = make_bundle(tmp_path / "one", hooks=hooks)
    runtime.quiet("create", "-b", str(bundle), "one")
    runtime.ok("start", "one")
    runtime.ok("delete", "--force", "one")
    lines = journal.read_text().splitlines()
    assert [line.split()[0] for line in lines] == list(kinds)
    assert [line.split()[-1].strip('"') for line in lines] == [
        "creating",
        "creating",
        "creating",
        "running",
        "stopped",
    ]


def test_a_failing_poststart_hook_ends_the_container(runtime: Runtime, tmp_path: Path) -> None:
    marker = tmp_path / "stopped"
    bundle = make_bundle(
        tmp_path / "one",
        hooks={
            "poststart": [{"path": "/bin/false"}],
            "poststop": [{"path": "/bin/touch", "args": ["touch", str(marker)]}],
        },
    )
    runtime.quiet("create", "-b", str(bundle), "one")
    assert "poststart" in runtime.fails("start", "one")
    assert "does not exist" in runtime.fails("state", "one")
    assert marker.exists()
    assert groups_of(bundle) == []


def test_a_failing_poststop_hook_is_a_warning(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", hooks={"poststop": [{"path": "/bin/false"}]})
    runtime.quiet("run", "-d", "-b", str(bundle), "one")
    done = runtime.run("delete", "--force", "one")
    assert done.returncode == 0
    assert "poststop" in done.stderr


def test_killing_one_without_a_pid_namespace_ends_all_its_processes(
    runtime: Runtime, tmp_path: Path
) -> None:
    bundle = make_bundle(
        tmp_path / "one",
        "sh",
        "-c",
        "sleep 1000 & while :; do sleep 0.05; done",
        linux={"namespaces": [{"type": "mount"}]},
    )
    runtime.quiet("run", "-d", "-b", str(bundle), "one")
    pids = json.loads(runtime.ok("ps", "--format", "json", "one"))
    assert len(pids) >= 1
    runtime.ok("kill", "one", "9")
    runtime.wait("one", "stopped")
    assert json.loads(runtime.ok("ps", "-f", "json", "one")) == []


def test_signals_by_number_and_either_name(runtime: Runtime, tmp_path: Path) -> None:
    for index, name in enumerate(("15", "TERM", "SIGTERM")):
        bundle = make_bundle(tmp_path / f"one{index}")
        runtime.quiet("run", "-d", "-b", str(bundle), f"one{index}")
        runtime.ok("kill", f"one{index}", name)
        runtime.wait(f"one{index}", "stopped")
    assert "invalid signal: NOSUCH" in runtime.fails("kill", "one0", "NOSUCH")


def test_a_pid_that_is_anothers_by_now_is_not_the_container(runtime: Runtime, bundle: Path) -> None:
    runtime.quiet("run", "-d", "-b", str(bundle), "one")
    runtime.ok("kill", "one", "KILL")
    runtime.wait("one", "stopped")
    path = runtime.root / "one/state.json"
    state = json.loads(path.read_text())
    with subprocess.Popen(["/bin/sleep", "100"]) as other:
        try:
            path.write_text(json.dumps({**state, "pid": other.pid}))
            assert runtime.status("one") == "stopped"
            assert "container not running" in runtime.fails("kill", "one", "KILL")
            runtime.ok("delete", "--force", "one")
            assert other.poll() is None
        finally:
            other.send_signal(signal.SIGKILL)


def test_the_list_as_table_json_and_names(runtime: Runtime, tmp_path: Path) -> None:
    assert json.loads(runtime.ok("list", "--format", "json")) is None
    for name in ("a", "b"):
        runtime.quiet("create", "-b", str(make_bundle(tmp_path / name)), name)
    assert runtime.ok("list", "--quiet").split() == ["a", "b"]
    rows = json.loads(runtime.ok("list", "-f", "json"))
    assert [row["id"] for row in rows] == ["a", "b"]
    heading, first, _ = runtime.ok("list").splitlines()
    assert heading.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert first.split()[0] == "a"


def test_annotations_are_in_the_state(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", annotations={"org.test": "value"})
    runtime.quiet("create", "-b", str(bundle), "one")
    assert runtime.state("one")["annotations"] == {"org.test": "value"}


def test_what_waits_at_the_gate_runs_from_a_sealed_copy(runtime: Runtime, bundle: Path) -> None:
    """CVE-2019-5736: the container's /proc/PID/exe is no file of the machine, nor writable."""
    runtime.quiet("create", "-b", str(bundle), "one")
    exe = f"/proc/{runtime.state('one')['pid']}/exe"
    assert os.readlink(exe).startswith("/memfd:sampan-runtime")
    with pytest.raises(OSError, match=r"Text file busy|Operation not permitted|Permission denied"):
        os.close(os.open(exe, os.O_WRONLY))


@pytest.mark.parametrize("command", ["checkpoint", "restore"])
def test_what_is_not_supported_says_so(runtime: Runtime, command: str) -> None:
    words = (command, "--image-path", "/x", "--leave-running", "one")
    assert f"{command} is not supported" in runtime.fails(*words)
