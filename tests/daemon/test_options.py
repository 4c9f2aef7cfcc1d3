"""Flags and the configuration file: what is taken, what is refused and how it is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sampan.daemon.configuration import read_arguments, usage
from sampan.daemon.keys import KEYS
from sampan.daemon.options import Options, parse
from sampan.errors import SampanError


def options(*arguments: str) -> Options:
    return parse(list(arguments))[1]


def from_file(place: Path, value: dict[str, Any], *arguments: str) -> Options:
    path = place / "daemon.json"
    path.write_text(json.dumps(value))
    return options("--config-file", str(path), *arguments)


def test_flags_are_written_as_dockerds() -> None:
    given = read_arguments(
        ["-H", "unix:///a", "--host=unix:///b", "-Hunix:///c", "-D", "--init=false", "-l=warn",
         "--label", "a=b", "--label=c=d"]
    )  # fmt: skip
    assert given.values == {
        "hosts": ["unix:///a", "unix:///b", "unix:///c"],
        "debug": True,
        "init": False,
        "log-level": "warn",
        "labels": ["a=b", "c=d"],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "unknown flag --nonsense"),
        (["serve"], "unknown argument serve"),
        (["--data-root"], "--data-root needs a value"),
        (["--debug=perhaps"], "--debug perhaps: expected true or false"),
        (["--max-concurrent-downloads", "0"], "expected a number of 1 or more"),
        (["--shutdown-timeout", "-1"], "expected a number of 0 or more"),
        (["--log-format", "xml"], "expected text or json"),
        (["--dns", "dns.example"], "--dns dns.example: expected"),
        (["--default-ulimit", "nofile"], "expected name=soft[:hard]"),
        (["--default-ulimit", "nonsense=1:2"], "invalid ulimit type: nonsense"),
        (["--default-shm-size", "none"], "expected a size"),
        (["--userland-proxy"], "--userland-proxy is not supported: there is no proxy"),
        (["--bip", "10.1.0.1"], "--bip 10.1.0.1: expected an IPv4 address with its prefix length"),
        (["--bridge", "none", "--bip", "10.1.0.1/24"], "bridge none and bip"),
        (["--bridge", "none", "--ipv6"], "bridge none and ipv6"),
        (["--fixed-cidr-v6", "10.1.0.0/24"], "expected an IPv6 subnet, as fd00:1::/64"),
        (["--fixed-cidr-v6", "fd00:1::/64"], "need ipv6"),
        (["--default-gateway", "10.1.0.9"], "default-gateway 10.1.0.9: say in which subnet"),
        (["--bip", "10.1.0.1/24", "--default-gateway", "10.2.0.9"], "not in the subnet"),
        (["--bip", "10.1.0.1/24", "--fixed-cidr", "10.2.0.0/24"], "not in the subnet"),
        (["--default-network-opt", "bridge=x"], "expected driver=option=value"),
        (["--default-network-opt", "vxlan=x=y"], "no such driver of networks"),
        (["--default-network-opt", "bridge=x=y"], "option x=y is not supported"),
        (["--bridge-accept-fwmark", "1"], "--bridge-accept-fwmark is not supported"),
        (["--bridge", "a-name-of-16-bytes"], "at most 15 characters"),
        (["--default-address-pool", "base=10.1.0.0/16"], "expected a base, as"),
        (["--default-address-pool", "base=10.1.0.0/16,size=8"], "expected a size of 16 to 30"),
        (["--firewall", "iptables"], "expected nftables or none"),
        (["--live-restore=false"], "--live-restore is not supported: containers always outlive"),
        (["--add-runtime", "runc=/usr/bin/runc"], "--add-runtime is not supported"),
        (["--exec-opt", "native.cgroupdriver=systemd"], "--exec-opt is not supported"),
        (["--storage-opt", "size=1G"], "--storage-opt is not supported"),
        (["--feature", "buildkit"], "features: buildkit"),
        (["--label", "nonsense"], "label nonsense: write name=value"),
        (["--seccomp-profile", "/no/such"], "seccomp-profile /no/such"),
        (["--log-driver", "nonsense"], "nonsense"),
        (["--log-opt", "nonsense=1"], "nonsense"),
        (["--registry-mirror", "mirror.example"], "registry-mirror mirror.example: write"),
        (["--insecure-registry", "https://x"], "insecure-registry https://x: write"),
        (["--tlscert", "/etc/x"], "tlscert without tls"),
        (["-H", "tcp://[::1:5"], "IPv6 address in brackets"),
        (["-H", "/run/x.sock"], "write unix:///path"),
        (["--config-file", "/no/such"], "the configuration file /no/such does not exist"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: list[str], words: str) -> None:
    with pytest.raises(SampanError) as caught:
        parse(arguments)
    assert words in caught.value.message


def test_what_says_what_we_do_anyway_is_taken(tmp_path: Path) -> None:
    options("--iptables=false", "--bridge", "none", "--live-restore", "--raw-logs",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--default-runtime", "sampan",
            "--userns-remap=", "--experimental=false")  # fmt: skip
    from_file(tmp_path, {"live-restore": True, "runtimes": {}, "storage-opts": [],
                         "features": {"buildkit": False}, "ip-forward": True})  # fmt: skip


def test_networks_are_told_as_dockerds(tmp_path: Path) -> None:
    flags = "--bip 10.1.0.1/24 -b br7 --mtu=1300 --icc=false --iptables=0"
    pool = "--default-address-pool=base=10.2.0.0/16,size=24"
    found = options(*flags.split(), pool).settings.network
    assert (found.bip, found.bridge, found.mtu, found.icc) == ("10.1.0.1/24", "br7", 1300, False)
    assert (found.firewall, found.masquerade) == ("none", True)
    assert [(one.base, one.size) for one in found.pools] == [("10.2.0.0/16", 24)]
    flags = (
        "--ipv6 --bip6 fd00:1::1/64 --fixed-cidr 10.4.0.0/24 --default-gateway 10.4.0.9 --ip "
        "127.0.0.1 --ip-forward=false --ip-forward-no-drop --host-gateway-ip 192.0.2.1 "
        "--host-gateway-ip 2001:db8::1 --default-network-opt bridge=com.docker.network.driver.mtu=9"
    )
    found = options(*f"{flags}00".split()).settings.network
    assert (found.ipv6, found.bip6, found.fixed) == (True, "fd00:1::1/64", "10.4.0.0/24")
    assert (found.router, found.bind) == ("10.4.0.9", "127.0.0.1")
    assert (found.forward, found.guard) == (False, False)
    assert found.host_gateways == ("192.0.2.1", "2001:db8::1")
    mtu = ("bridge", "com.docker.network.driver.mtu", "900")
    assert found.more == (mtu,)
    more = {"default-network-opts": {"bridge": {mtu[1]: mtu[2]}}, "host-gateway-ip": "192.0.2.7"}
    found = from_file(tmp_path, more).settings.network
    assert (found.more, found.host_gateways) == ((mtu,), ("192.0.2.7",))
    pools = [{"base": "10.3.0.0/16", "size": 26}]
    found = from_file(tmp_path, {"default-address-pools": pools, "bridge": "none"}).settings.network
    assert [(one.base, one.size) for one in found.pools] == [("10.3.0.0/16", 26)]


def test_a_file_has_dockerds_keys(tmp_path: Path) -> None:
    found = from_file(
        tmp_path,
        {
            "hosts": ["unix:///x/s"],
            "data-root": "/x/data",
            "log-driver": "json-file",
            "log-opts": {"max-size": "10m", "max-file": "3"},
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 64, "Hard": 128}},
            "insecure-registries": ["10.0.0.0/8"],
            "registry-mirrors": ["https://mirror.example"],
            "max-concurrent-downloads": 7,
            "proxies": {"https-proxy": "http://proxy:1"},
            "default-shm-size": "32m",
            "labels": ["kind=test"],
            "dns": ["192.0.2.1"],
        },
    )
    settings = found.settings
    assert [str(host) for host in found.hosts] == ["unix:///x/s"]
    assert settings.data_root == "/x/data"
    assert settings.labels == ("kind=test",)
    assert settings.defaults.log_options == {"max-size": "10m", "max-file": "3"}
    assert settings.defaults.ulimits == {"nofile": (64, 128)}
    assert settings.defaults.shm_size == 32 * 1024 * 1024
    assert settings.defaults.dns == ("192.0.2.1",)
    assert settings.transfers.insecure == ("10.0.0.0/8",)
    assert settings.transfers.mirrors == ("https://mirror.example/",)
    assert (settings.transfers.downloads, settings.transfers.uploads) == (7, 5)
    assert settings.transfers.https_proxy == "http://proxy:1"


def test_a_file_may_be_toml(tmp_path: Path) -> None:
    path = tmp_path / "daemon.toml"
    path.write_text(
        'debug = true\nlabels = ["a=b"]\n[log-opts]\nmax-size = "1m"\n'
        "[default-ulimits.core]\nSoft = 0\nHard = 1\n"
    )
    found = options("--config-file", str(path))
    assert found.log_level == "debug"
    assert found.settings.defaults.log_options == {"max-size": "1m"}
    assert found.settings.defaults.ulimits == {"core": (0, 1)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "daemon.json: "),
        ("[]", "expected an object"),
        ('{"nonsense": 1, "also": 2}', "also, nonsense: no such configuration option"),
        ('{"debug": "yes"}', "debug: expected true or false"),
        ('{"hosts": "unix:///x"}', "hosts: expected a list of texts"),
        ('{"max-concurrent-uploads": "3"}', "expected a number"),
        ('{"log-opts": {"max-file": 3}}', "log-opts: expected names with texts"),
        ('{"default-ulimits": {"nofile": 5}}', "default-ulimits: expected"),
        ('{"fixed-cidr": "10.1.0.1/24"}', "fixed-cidr: expected an IPv4 subnet"),
        ('{"default-network-opts": {"bridge": "x"}}', "default-network-opts: expected"),
        ('{"default-address-pools": ["10.0.0.0/8"]}', "default-address-pools: expected [{"),
        ('{"proxies": {"ftp-proxy": "x"}}', "proxies.ftp-proxy"),
        ("[" * 100_000, "daemon.json: "),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    with pytest.raises(SampanError) as caught:
        options("--config-file", str(path))
    assert words in caught.value.message
    assert str(path) in caught.value.message


def test_nothing_stands_in_both_places(tmp_path: Path) -> None:
    with pytest.raises(SampanError) as caught:
        from_file(tmp_path, {"debug": True, "labels": ["a=b"]}, "-D", "--label", "c=d")
    assert "debug (flag: true, file: true), labels (flag: " in caught.value.message


def test_every_setting_is_acted_on_or_has_a_reason() -> None:
    assert len({key.name for key in KEYS}) == len(KEYS)
    for key in KEYS:
        assert key.why or key.help or key.name == "proxies", key.name
        assert key.why or not key.long or f"--{key.long}" in usage()


FLAGS = next(
    (
        path
        for parent in Path(__file__).resolve().parents
        if (path := parent / "shared/reference/dockerd_flags.txt").is_file()
    ),
    None,
)


@pytest.mark.skipif(FLAGS is None, reason="the list of dockerd's flags is not here")
def test_each_flag_of_dockerds_is_known() -> None:
    """A flag that is not known would be refused without the reason."""
    assert FLAGS is not None
    found = re.findall(r"(?m)^(?:-\w, )?--([a-z0-9-]+)[ \t]", FLAGS.read_text(encoding="utf-8"))
    assert len(set(found)) > 80
    known = {key.long for key in KEYS} | {"config-file", "help", "validate", "version"}
    assert set(found) <= known


def test_the_unit_starts_a_daemon_that_knows_its_flags() -> None:
    unit = (Path(__file__).parents[2] / "packaging" / "sampan.service").read_text()
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = start.partition("=")[2].split()
    assert words[1] == "daemon"
    assert [str(host) for host in options(*words[2:]).hosts] == ["fd://*"]


def test_ports_follow_tls(tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("x")
    files = [f"--tls{name.replace('.pem', '').replace('ca', 'cacert')}={tmp_path / name}"
             for name in ("ca.pem", "cert.pem", "key.pem")]  # fmt: skip
    assert (
        str(options("-H", "tcp://0.0.0.0", "--tlsverify", *files).hosts[0]) == "tcp://0.0.0.0:2376"
    )
    assert str(options("-H", "tcp://[::1]", "--insecure-tcp").hosts[0]) == "tcp://[::1]:2375"
