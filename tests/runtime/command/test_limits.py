"""pause, resume, update, ps and events: the container's cgroup by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import InvalidArgument
from sampan.kernel.cgroups import detect
from sampan.runtime.command import events
from tests.runtime.command.runtime import Runtime, make_bundle

pytestmark = pytest.mark.root


@pytest.fixture
def running(runtime: Runtime, tmp_path: Path) -> Runtime:
    runtime.quiet("run", "-d", "-b", str(make_bundle(tmp_path / "one")), "one")
    return runtime


@pytest.mark.v2
def test_pause_and_resume(running: Runtime) -> None:
    running.ok("pause", "one")
    assert running.status("one") == "paused"
    assert "is paused: cannot be paused" in running.fails("pause", "one")
    assert "is paused: stop it first" in running.fails("delete", "one")
    running.ok("resume", "one")
    assert running.status("one") == "running"
    assert "not paused" in running.fails("resume", "one")


def test_a_paused_container_can_be_killed_and_deleted(running: Runtime, tmp_path: Path) -> None:
    running.ok("pause", "one")
    running.ok("kill", "one", "KILL")
    running.wait("one", "stopped")
    running.quiet("run", "-d", "-b", str(make_bundle(tmp_path / "two")), "two")
    running.ok("pause", "two")
    running.ok("delete", "--force", "two")


@pytest.mark.v2
def test_update_by_options_and_by_file(running: Runtime, tmp_path: Path) -> None:
    def stats() -> Any:
        return json.loads(running.ok("events", "--stats", "one"))["data"]

    running.ok("update", "--memory", "64m", "--pids-limit", "33", "one")
    assert stats()["memory"]["usage"]["limit"] == 64 << 20
    assert stats()["pids"]["limit"] == 33
    resources = json.dumps({"memory": {"limit": 96 << 20}, "pids": {"limit": 44}})
    running.ok("update", "--resources", "-", "one", input=resources)
    assert stats()["memory"]["usage"]["limit"] == 96 << 20
    path = tmp_path / "resources.json"
    path.write_text('{"pids": {"limit": 55}}')
    running.ok("update", "-r", str(path), "--pids-limit", "1", "one")
    assert stats()["pids"]["limit"] == 55
    kept = json.loads((running.root / "one/state.json").read_text())
    assert kept["spec"]["linux"]["resources"]["memory"]["limit"] == 96 << 20


# option, value; the v1 controller, file and content; the v2 file and content
OPTIONS = [
    ("--cpu-period", "50000", "cpu", "cpu.cfs_period_us", "50000", "cpu.max", "max 50000"),
    ("--cpu-idle", "1", "cpu", "cpu.idle", "1", "cpu.idle", "1"),
    ("--cpu-idle", "0", "cpu", "cpu.idle", "0", "cpu.idle", "0"),
    ("--cpu-share", "512", "cpu", "cpu.shares", "512", "cpu.weight", "50"),
    ("--cpu-quota", "30000", "cpu", "cpu.cfs_quota_us", "30000", "cpu.max", "30000 50000"),
    ("--cpuset-cpus", "0", "cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"),
    ("--cpuset-mems", "0", "cpuset", "cpuset.mems", "0", "cpuset.mems", "0"),
    ("--memory", "64m", "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
    ("--memory-reservation", "32m", "memory", "memory.soft_limit_in_bytes", "33554432",
     "memory.low", "33554432"),
    ("--pids-limit", "-1", "pids", "pids.max", "max", "pids.max", "max"),
]  # fmt: skip


@pytest.mark.v2
def test_each_option_of_update_lands_in_its_file(running: Runtime) -> None:
    group = detect().group(f"/sampan-test-{os.getpid()}/one")
    paths = group.paths()
    v2 = group.hierarchy.kind == "v2"
    # Several at a time: under emulation each call costs seconds.
    for rows in (OPTIONS[:2], OPTIONS[2:]):
        running.ok("update", *(word for row in rows for word in row[:2]), "one")
        for _, _, controller, file1, content1, file2, content2 in rows:
            if v2:
                [path], file, content = set(paths.values()), file2, content2
            else:
                path, file, content = paths[controller], file1, content1
            found = Path(path, file).read_text().strip()
            assert (file, found) == (file, content)


def test_options_of_update_that_need_one_another_or_are_ignored(running: Runtime) -> None:
    group = detect().group(f"/sampan-test-{os.getpid()}/one")

    def read(controller: str, file: str) -> str:
        return Path(group.paths()[controller], file).read_text().strip()

    if group.hierarchy.kind == "v2":
        pytest.skip("files of v1")
    running.ok("update", "--memory", "64m", "--memory-swap", "80m", "one")
    assert read("memory", "memory.memsw.limit_in_bytes") == str(80 << 20)
    running.ok("update", "--cpu-quota", "30000", "--cpu-burst", "10000", "one")
    assert read("cpu", "cpu.cfs_burst_us") == "10000"
    for option in ("--kernel-memory", "--kernel-memory-tcp"):
        running.ok("update", option, "64m", "one")
    if Path(group.paths()["blkio"], "blkio.bfq.weight").exists():
        running.ok("update", "--blkio-weight", "300", "one")
        assert read("blkio", "blkio.bfq.weight") == "300"
    # What the kernel has no room for (the group above has none to give) is named.
    for option, name in (("--cpu-rt-runtime", "Runtime"), ("--cpu-rt-period", "Period")):
        done = running.run("update", option, "900000", "one")
        assert done.returncode == 0 or f"realtime{name}" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mem-bw-schema", "MB:0=50"), "intelRdt is not supported"),
        (("--memory", "much"), "--memory: expected bytes"),
        (("--pids-limit", "x"), "--pids-limit: expected a number"),
        (("--l3-cache-schema", "L3:0=f"), "intelRdt is not supported"),
        (("--resources", "/no/such"), "--resources /no/such"),
        (("--cpu-nosuch", "1"), "update: no such option: --cpu-nosuch"),
    ],
)
def test_what_update_refuses(running: Runtime, words: tuple[str, ...], message: str) -> None:
    assert message in running.fails("update", *words, "one")


def test_ps_as_json_and_table(running: Runtime) -> None:
    pid = running.state("one")["pid"]
    assert pid in json.loads(running.ok("ps", "--format", "json", "one"))
    heading, *lines = running.ok("ps", "one", "-eo", "pid,comm").splitlines()
    assert heading.split() == ["PID", "COMMAND"]
    assert [str(pid), "sh"] in [line.split() for line in lines]
    assert "no column PID" in running.fails("ps", "one", "-eo", "comm")


@pytest.mark.v2
def test_the_shape_of_stats(running: Runtime) -> None:
    line = json.loads(running.ok("events", "--stats", "one"))
    assert (line["type"], line["id"]) == ("stats", "one")
    data = line["data"]
    assert {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt"} <= set(data)
    usage = data["cpu"]["usage"]
    assert {"total", "percpu", "percpu_kernel", "percpu_user", "kernel", "user"} == set(usage)
    assert usage["total"] > 0
    assert {"periods", "throttledPeriods", "throttledTime"} == set(data["cpu"]["throttling"])
    for name in ("usage", "swap", "kernel", "kernelTCP"):
        assert {"limit", "usage", "max", "failcnt"} == set(data["memory"][name])
    assert data["memory"]["usage"]["usage"] > 0
    assert data["pids"]["current"] >= 1


@pytest.mark.v2
def test_events_follow_until_the_end_and_tell_of_oom(runtime: Runtime, tmp_path: Path) -> None:
    script = "read go; x=a; while :; do x=$x$x; done"
    bundle = make_bundle(tmp_path / "one", "sh", "-c", script)
    config = json.loads((bundle / "config.json").read_text())
    config["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    (bundle / "config.json").write_text(json.dumps(config))
    container = subprocess.Popen(
        runtime.argv("run", "--keep", "-b", str(bundle), "one"), stdin=subprocess.PIPE
    )
    with container:
        assert container.stdin is not None
        while not (runtime.root / "one/state.json").exists():
            time.sleep(0.01)
        runtime.wait("one", "running")
        words = runtime.argv("events", "--interval", "50ms", "one")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as followed:
            assert followed.stdout is not None
            assert json.loads(followed.stdout.readline())["type"] == "stats"
            container.stdin.write(b"\n")
            container.stdin.flush()
            kinds = [json.loads(line)["type"] for line in followed.stdout]
            assert followed.wait(60) == 0
    assert "oom" in kinds
    assert container.returncode == 137


@pytest.mark.parametrize(
    ("text", "value"), [("5s", 5), ("1m30s", 90), ("100ms", 0.1), ("1h", 3600), ("1.5s", 1.5)]
)
def test_durations(text: str, value: float) -> None:
    assert events.seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "0s", "5 s", "5x"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--interval"):
        events.seconds(text)
