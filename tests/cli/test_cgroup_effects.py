"""What cgroups are for, by effect, through the front door; on v1 here, on pure v2 in its lane."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Sampan

pytestmark = [pytest.mark.root, pytest.mark.v2]

RUN = ("run", "--rm", "--network", "none")


@pytest.fixture(autouse=True)
def no_containers_after(sampan: Sampan) -> object:
    yield
    names = sampan("ps", "-aq").stdout.split()
    if names:
        sampan("rm", "-f", *names, check=True)


def test_a_memory_limit_ends_in_an_oom_kill_that_is_reported(sampan: Sampan) -> None:
    eater = ("sh", "-c", "exec tail /dev/zero")
    done = sampan("run", "--name", "eater", "--network", "none", "-m", "24m", "host", *eater)
    assert done.returncode == 137
    state = json.loads(sampan("inspect", "eater", check=True).stdout)[0]["State"]
    assert state["OOMKilled"] is True and state["ExitCode"] == 137


def test_cpu_is_shared_as_the_shares_say(sampan: Sampan) -> None:
    burn = "while :; do :; done"
    for name, shares in (("heavy", "2048"), ("light", "1024")):
        flags = ("--cpuset-cpus", "0", "--cpu-shares", shares)
        sampan(
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            *flags,
            "host",
            "sh",
            "-c",
            burn,
            check=True,
        )

    def account(name: str) -> tuple[float, float]:
        """When, in the machine's seconds, and how many of the processor's it had used."""
        usage = "cat cpu.stat 2>/dev/null || cat cpuacct/cpuacct.usage"
        script = f"cd /sys/fs/cgroup; cat /proc/uptime; {usage}"
        moment, text = sampan("exec", name, "sh", "-c", script, check=True).stdout.split("\n", 1)
        fields = dict(line.split() for line in text.splitlines() if " " in line)
        used = float(fields["usage_usec"]) / 1e6 if fields else float(text) / 1e9
        return float(moment.split()[0]), used

    # Rates: the two are not looked at in the same moment.
    before = {name: account(name) for name in ("heavy", "light")}
    time.sleep(4)  # the burn itself: the longer, the closer to the shares
    after = {name: account(name) for name in ("heavy", "light")}
    rates = {
        name: (after[name][1] - before[name][1]) / (after[name][0] - before[name][0])
        for name in ("heavy", "light")
    }
    assert rates["heavy"] / rates["light"] == pytest.approx(2, rel=0.15)


def test_a_cpu_quota_holds(sampan: Sampan) -> None:
    script = """
        cat /proc/uptime
        t=$(date +%s); while [ $(($(date +%s) - t)) -lt 4 ]; do :; done
        cat /proc/uptime
        times
    """
    done = sampan(*RUN, "--cpus", "0.25", "host", "sh", "-c", script, check=True)
    began, ended, times = done.stdout.split("\n", 2)
    lasted = float(ended.split()[0]) - float(began.split()[0])
    assert 0.3 < _cpu_times(times) < 0.45 * lasted


def _cpu_times(text: str) -> float:
    """Seconds of CPU in what the shell's ``times`` printed: its own and its children's."""
    spent = 0.0
    for word in text.split():
        minutes, _, seconds = word.rstrip("s").partition("m")
        spent += int(minutes) * 60 + float(seconds)
    return spent


def test_accounts_agree_with_the_work_done(sampan: Sampan) -> None:
    """What a container's own accounts say it used, and what its shell knows that it used."""
    script = """
        account() { cat /sys/fs/cgroup/$1 2>/dev/null || cat /sys/fs/cgroup/$2; echo --; }
        cpu() { account cpu.stat cpuacct/cpuacct.usage; times; echo --; }
        memory() { account memory.current memory/memory.usage_in_bytes; }
        cpu
        t=$(date +%s); while [ $(($(date +%s) - t)) -lt 3 ]; do :; done
        cpu
        memory
        head -c 33554432 /dev/zero >/dev/shm/held
        memory
    """
    done = sampan(*RUN, "-m", "256m", "host", "sh", "-c", script, check=True)
    parts = done.stdout.split("--\n")

    def counted(text: str) -> float:
        fields = dict(line.split() for line in text.splitlines() if " " in line)
        return float(fields["usage_usec"]) / 1e6 if fields else float(text) / 1e9

    counted_cpu = counted(parts[2]) - counted(parts[0])
    used_cpu = _cpu_times(parts[3]) - _cpu_times(parts[1])
    assert used_cpu > 0.5
    assert counted_cpu == pytest.approx(used_cpu, rel=0.1, abs=0.1)
    assert int(parts[5]) - int(parts[4]) == pytest.approx(32 << 20, rel=0.15)


def test_a_pids_limit_stops_forks(sampan: Sampan) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait"
    done = sampan(*RUN, "--pids-limit", "5", "host", "sh", "-c", script)
    assert "fork" in done.stderr.lower()


def test_a_container_sees_only_its_own_cgroup_root(sampan: Sampan) -> None:
    done = sampan(*RUN, "host", "cat", "/proc/self/cgroup", check=True)
    assert {line.rpartition(":")[2] for line in done.stdout.splitlines()} == {"/"}


def test_freezing_stops_it_and_thawing_lets_it_go_on(sampan: Sampan, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    script = "while :; do echo >> /out/ticks; done"
    flags = ("--network", "none", "-v", f"{tmp_path}:/out")
    sampan("run", "-d", "--name", "clock", *flags, "host", "sh", "-c", script, check=True)

    def grows() -> bool:
        before = ticks.stat().st_size if ticks.exists() else 0
        time.sleep(0.5)
        return ticks.exists() and ticks.stat().st_size > before

    assert grows()
    sampan("pause", "clock", check=True)
    assert not grows()
    sampan("unpause", "clock", check=True)
    assert grows()


def test_device_rules_hold(sampan: Sampan) -> None:
    script = "mknod /d c 1 {} && ( : < /d ) 2>/dev/null && echo open || echo refused"

    def tried(minor: int, *flags: str) -> str:
        # CAP_SYSLOG: what /dev/kmsg itself asks for; the rest is the cgroup's decision.
        command = ("sh", "-c", script.format(minor))
        flags = ("--cap-add", "SYSLOG", *flags)
        return sampan(*RUN, *flags, "host", *command, check=True).stdout.strip()

    assert tried(5) == "open"  # /dev/zero, everybody's
    assert tried(11) == "refused"  # /dev/kmsg, nobody's
    assert tried(11, "--device-cgroup-rule", "c 1:11 rwm") == "open"
