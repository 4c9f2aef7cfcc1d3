"""Flags are read as Docker's users write them."""

from __future__ import annotations

import pytest

from sampan.cli.container_body import create_body
from sampan.cli.container_flags import RUN
from sampan.cli.flags import Flag, Values, parse
from sampan.cli.streams import DetachKeys
from sampan.errors import InvalidArgument


def run(*argv: str) -> Values:
    return parse("run", RUN, list(argv), interspersed=False)


def body(*argv: str) -> dict[str, object]:
    return create_body(run(*argv))


def host(*argv: str) -> dict[str, object]:
    config = body(*argv, "image")["HostConfig"]
    assert isinstance(config, dict)
    return config


def test_short_booleans_join_and_the_last_takes_a_value() -> None:
    values = run("-itw", "/tmp", "host", "sh", "-c", "exit 3")
    assert values.flag("interactive") and values.flag("tty")
    assert values.text("workdir") == "/tmp"
    assert values.arguments == ["host", "sh", "-c", "exit 3"]


@pytest.mark.parametrize(
    "argv", [["--name", "x"], ["--name=x"], ["--rm", "--name=x"], ["-d", "--name", "x"]]
)
def test_long_flags_take_their_value_either_way(argv: list[str]) -> None:
    assert run(*argv, "host").text("name") == "x"


@pytest.mark.parametrize("argv", [["-m", "1m"], ["-m1m"], ["-m=1m"], ["--memory=1MiB"]])
def test_short_values_may_be_glued(argv: list[str]) -> None:
    assert run(*argv, "host").number("memory") == 1 << 20


def test_booleans_take_a_value_only_after_an_equals_sign() -> None:
    values = run("--rm=false", "--init=true", "--tty", "host")
    assert not values.flag("rm") and values.flag("init") and values.flag("tty")


def test_two_dashes_end_the_flags() -> None:
    assert run("--rm", "--", "-image").arguments == ["-image"]


def test_flags_after_arguments_are_the_commands_own_where_it_says_so() -> None:
    flags = [Flag("force", "bool", "", short="f")]
    assert parse("rm", flags, ["a", "-f", "b"]).arguments == ["a", "b"]
    assert parse("rm", flags, ["a", "-f"], interspersed=False).arguments == ["a", "-f"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["--memory", "much"], 'invalid argument "much" for --memory'),
        (["--cpu-shares", "1.5"], "expected a whole number"),
        (["--rm=perhaps"], "expected true or false"),
        (["--isolation", "hyperv"], "Windows"),
    ],
)
def test_a_wrong_flag_is_named(argv: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        run(*argv, "host")


def test_a_flag_without_its_value_is_named() -> None:
    with pytest.raises(InvalidArgument, match="flag needs an argument: --name"):
        run("--rm", "--name")


@pytest.mark.parametrize(
    ("text", "count"),
    [("512", 512), ("1k", 1024), ("2g", 2 << 30), ("1.5m", 3 << 19), ("64MB", 64 << 20), ("7b", 7)],
)
def test_sizes(text: str, count: int) -> None:
    assert run("-m", text, "host").number("memory") == count


def test_the_body_of_a_container() -> None:
    made = body("-i", "-e", "A=b", "-u", "1:2", "-l", "k=v", "--entrypoint", "/e", "img", "x", "y")
    assert made["Image"] == "img" and made["Cmd"] == ["x", "y"] and made["Entrypoint"] == ["/e"]
    assert made["Env"] == ["A=b"] and made["User"] == "1:2" and made["Labels"] == {"k": "v"}
    assert made["OpenStdin"] is True and made["StdinOnce"] is True and made["AttachStdin"] is True


def test_a_bare_variable_takes_our_own_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    monkeypatch.delenv("ABSENT", raising=False)
    # One that has no value here takes the image's away (Docker Engine API, Env).
    assert body("-e", "OURS", "-e", "ABSENT", "img")["Env"] == ["OURS=1", "ABSENT"]


def test_limits() -> None:
    assert host("--cpus", "1.5")["NanoCpus"] == 1_500_000_000
    assert host("--memory-swap", "-1")["MemorySwap"] == -1
    assert host("--memory-swap", "1g")["MemorySwap"] == 1 << 30
    ulimits = host("--ulimit", "nofile=10:20", "--ulimit", "core=0")["Ulimits"]
    assert ulimits == [
        {"Name": "core", "Soft": 0, "Hard": 0},
        {"Name": "nofile", "Soft": 10, "Hard": 20},
    ]


def test_volumes_with_and_without_a_source() -> None:
    made = body("-v", "/a:/b:ro", "-v", "/anonymous", "img")
    assert made["Volumes"] == {"/anonymous": {}}
    config = made["HostConfig"]
    assert isinstance(config, dict) and config["Binds"] == ["/a:/b:ro"]


def test_mounts() -> None:
    config = host("--mount", "type=bind,src=/a,dst=/b,ro", "--mount", "type=tmpfs,target=/t")
    assert config["Mounts"] == [
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True},
        {"Type": "tmpfs", "Source": "", "Target": "/t"},
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ulimit", "nofile"], "--ulimit: nofile: expected name=soft"),
        (["--ulimit", "nofile=5:2"], "soft <= hard"),
        (["--mount", "type=bind,src=/a"], "target is required"),
        (["--mount", "type=bind,dst=/a,spin=1"], "unknown option spin"),
        (["--cpus", "many"], "--cpus: many"),
        (["--env-file", "/no/such/file"], "--env-file: /no/such/file"),
        (["--security-opt", "seccomp=/no/such"], "seccomp=/no/such"),
        (["-a", "stdwhat"], "--attach: stdwhat"),
        (["--sysctl", "novalue"], "--sysctl: novalue: expected key=value"),
    ],
)
def test_a_wrong_value_is_named(argv: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        body(*argv, "img")


def test_detach_keys_are_seen_across_reads() -> None:
    keys = DetachKeys("")
    keys.feed(b"abc\x10")
    seen = [keys.pressed]
    keys.feed(b"\x10\x11")
    assert [*seen, keys.pressed] == [False, True]
    with pytest.raises(InvalidArgument, match="ctrl-7"):
        DetachKeys("ctrl-7")
