"""Beside the real ufw and firewalld: what they let through of ours before and after what is
advised, and that each keeps its own rules. docs/network.md, "Beside another firewall".

Both run in the house's network namespace. Their configuration is a copy of Debian's, of firewalld's
an empty one, and firewalld's bus is its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.network.house import DEFAULT, address
from tests.network.street import MACHINE, NEIGHBOUR, Street, street
from tests.network.test_matrix import SERVE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

__all__ = ["street"]

BUS = """
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/>
  </policy>
</busconfig>
"""


class Ufw:
    """``ufw enable`` and what follows."""

    answers_outside = False

    def __init__(self, street: Street, place: Path, _: ExitStack) -> None:
        self._house = street.house
        self._place = place
        shutil.copytree("/etc/ufw", place / "ufw")
        self.run("ufw --force enable")

    def run(self, command: str) -> None:
        # Its lock and its configuration are the test's.
        script = (
            "mount --make-rprivate / && mount -t tmpfs none /run && "
            'mount --bind "$0"/ufw /etc/ufw && exec "$@"'
        )
        own = ["unshare", "--mount", "sh", "-ec", script, str(self._place)]
        words = [*self._house.enter, *own, *shlex.split(command)]
        subprocess.run(words, capture_output=True, check=True)  # the test's own time is its limit

    def own_rules(self) -> str:
        text = self._house.run("iptables-save").stdout + self._house.run("ip6tables-save").stdout
        return re.sub(r"#.*|\[\d+:\d+\]", "", text)


class Firewalld:
    """The daemon, with a bus of its own."""

    answers_outside = True  # its chain accepts what is translated (ct status dnat)

    def __init__(self, street: Street, place: Path, stack: ExitStack) -> None:
        self._house = street.house
        self._bus = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={place}/bus"}
        (place / "bus.conf").write_text(BUS.format(place / "bus"))
        self._start(stack, f"dbus-daemon --config-file={place}/bus.conf --nofork --nopidfile")
        street.house.daemon.wait_for((place / "bus").exists)
        (place / "config").mkdir()
        self._start(stack, f"firewalld --nofork --nopid --system-config {place}/config")
        street.house.daemon.wait_for(self._answers, 300)

    def _words(self, command: str) -> list[str]:
        return [*self._house.enter, *shlex.split(command)]

    def _start(self, stack: ExitStack, command: str) -> None:
        process = subprocess.Popen(
            self._words(command), env={**os.environ, **self._bus},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)

    def _answers(self) -> bool:
        asked = subprocess.run(
            self._words("firewall-cmd --state"), env={**os.environ, **self._bus},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return asked.stdout.startswith("running")

    def run(self, command: str) -> None:
        subprocess.run(
            self._words(command), env={**os.environ, **self._bus},
            capture_output=True, check=True,
        )  # fmt: skip

    def own_rules(self) -> str:
        return self._house.run("nft", "list", "table", "inet", "firewalld").stdout


def told(street: Street) -> list[str]:
    warnings = street.house.daemon.get("/info").json()["Warnings"] or []
    return [line for line in warnings if "drops what is forwarded" in line]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "advised", "again"),
    [
        (Ufw, r"ufw route allow in on sampan0; ufw route allow out on sampan0", "ufw reload"),
        (Firewalld, r"firewall-cmd --permanent --zone=trusted --add-interface=sampan0",
         "firewall-cmd --reload"),
    ],
)  # fmt: skip
def test_what_is_advised_is_what_it_takes(
    street: Street, tmp_path: Path, kind: type[Ufw | Firewalld], advised: str, again: str
) -> None:
    daemon = street.house.daemon
    publish = {**DEFAULT, "PortBindings": {"7/tcp": [{"HostPort": "8080"}]}}
    with ExitStack() as stack:
        firewall = kind(street, tmp_path, stack)
        rules = firewall.own_rules()
        container = daemon.run("python3", "-c", SERVE, "7", "9", HostConfig=publish)
        daemon.wait_for(lambda: "listening" in daemon.logs(container), 60)
        inside = address(daemon, container)
        ours = [name for name in street.house.tables() if name.startswith("sampan-")]
        server = street.serve("neighbour", 8)
        stack.callback(server.communicate)
        stack.callback(server.kill)
        warnings = told(street)
        assert warnings and all(advised in one for one in warnings)
        only = "published ports are reached by this machine only"
        assert all((only in one) != firewall.answers_outside for one in warnings)
        assert street.reaches(container, NEIGHBOUR, 8) == ""
        seen = street.reaches("neighbour", MACHINE, 8080)
        assert seen == (NEIGHBOUR if firewall.answers_outside else "")
        assert firewall.own_rules() == rules  # a daemon and a container later
        for command in advised.split("; "):
            firewall.run(command)
        firewall.run(again)  # which builds its rules anew, and leaves ours
        assert told(street) == []
        assert [one for one in street.house.tables() if one.startswith("sampan-")] == ours
        assert street.reaches(container, NEIGHBOUR, 8) == MACHINE
        assert street.reaches("neighbour", MACHINE, 8080) == NEIGHBOUR
        assert street.reaches("neighbour", inside, 9) == ""
        rules = firewall.own_rules()
        daemon.remove_all()
        assert daemon.stop() == 0
        assert firewall.own_rules() == rules
        assert not any(one.startswith("sampan-") for one in street.house.tables())
