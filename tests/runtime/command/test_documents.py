"""What the command prints about itself: features, spec, help, version; and how it logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import InvalidArgument
from sampan.oci.runtime import SPEC_VERSION
from sampan.runtime import spec
from sampan.runtime.command.options import Parsed, parse
from sampan.runtime.command.table import COMMANDS, GLOBAL
from tests.runtime.command.runtime import COMMAND, Runtime, make_bundle

SCHEMAS = Path(__file__).resolve().parents[3] / ".." / "shared/specs/oci-runtime-schema"


def schema(name: str) -> Any:
    """A validator for one of the specification's schemas."""
    if not SCHEMAS.is_dir():
        pytest.skip("the specification's schemas are not at hand")
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    resources = [
        (
            path.name,
            referencing.Resource.from_contents(
                json.loads(path.read_text()), default_specification=referencing.jsonschema.DRAFT4
            ),
        )
        for path in SCHEMAS.glob("*.json")
    ]
    registry = referencing.Registry().with_resources(resources)
    return jsonschema.Draft4Validator(json.loads((SCHEMAS / name).read_text()), registry=registry)


def test_features_follow_their_schema(runtime: Runtime) -> None:
    document = json.loads(runtime.ok("features"))
    assert document["ociVersionMax"] == SPEC_VERSION
    assert len(document["hooks"]) == 6
    assert len(document["linux"]["capabilities"]) == 41
    assert {"idmap", "rro", "tmpcopyup", "rbind"} <= set(document["mountOptions"])
    assert document["linux"]["seccomp"]["enabled"]
    schema("features-schema.json").validate(document)


@pytest.mark.parametrize("words", [(), ("--rootless",)])
def test_the_template_is_a_good_configuration(
    runtime: Runtime, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "rootfs").mkdir()
    runtime.ok("spec", *words, "--bundle", str(tmp_path))
    config = spec.load(str(tmp_path))
    assert config.oci_version == SPEC_VERSION
    schema("config-schema.json").validate(json.loads((tmp_path / "config.json").read_text()))
    assert "exists already" in runtime.fails("spec", "-b", str(tmp_path))


@pytest.mark.root
def test_the_template_runs(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one")
    (bundle / "config.json").unlink()
    runtime.ok("spec", "--bundle", str(bundle))
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["sh", "-c", "echo $0 && id -u"]}
    config["linux"]["cgroupsPath"] = f"/sampan-test-{bundle.parent.name}"
    (bundle / "config.json").write_text(json.dumps(config))
    assert runtime.ok("run", "-b", str(bundle), "one").split() == ["sh", "0"]


@pytest.mark.root
@pytest.mark.v2
def test_the_rootless_template_runs_for_a_user_without_privileges(
    tmp_path: Path,
) -> None:
    nobody = 65534
    bundle = make_bundle(tmp_path / "one")
    (bundle / "config.json").unlink()
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)
    for directory, _, files in os.walk(tmp_path):
        os.chown(directory, nobody, nobody)
        for name in files:
            os.chown(Path(directory, name), nobody, nobody, follow_symlinks=False)

    def user(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            user=nobody,
            group=nobody,
            extra_groups=[],
            env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/bin"},
        )

    try:
        written = user("spec", "--rootless", "-b", str(bundle))
    except PermissionError:
        pytest.skip(f"{COMMAND[0]} cannot be executed by other users")
    assert written.returncode == 0
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["sh", "-c", "id -u; id -g; exit 5"]}
    config["root"]["readonly"] = False
    del config["process"]["rlimits"]
    (bundle / "config.json").write_text(json.dumps(config))
    done = user("run", "-b", str(bundle), "one")
    assert (done.returncode, done.stdout) == (5, "0\n0\n"), done.stderr
    assert (tmp_path / "sampan-runtime").stat().st_mode & 0o7777 == 0o1700
    assert os.listdir(tmp_path / "sampan-runtime") == []


def test_version_and_help(runtime: Runtime) -> None:
    version = runtime.ok("--version")
    assert version.startswith("sampan-runtime version ")
    assert f"spec: {SPEC_VERSION}" in version
    overview = runtime.ok("--help")
    for name, command in COMMANDS.items():
        assert name in overview
        text = runtime.ok(name, "--help")
        for option in command.options:
            assert option.hidden or f"--{option.name}" in text
    assert "no such command: bogus" in runtime.fails("bogus")
    assert "no such option: --bogus" in runtime.fails("--bogus", "list")
    assert "expected ID" in runtime.fails("state")


def test_errors_are_logged_as_text_or_json(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    runtime.fails("--log", str(log), "--log-format", "json", "state", "nothing")
    (line,) = log.read_text().splitlines()
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert entry["msg"] == "container nothing does not exist"
    assert time.strptime(entry["time"][:19], "%Y-%m-%dT%H:%M:%S")
    runtime.fails("--log", str(log), "state", "nothing")
    assert 'level=error msg="container nothing does not exist"' in log.read_text()
    runtime.fails("--debug", "--log", str(log), "state", "nothing")
    assert "level=debug" in log.read_text()
    assert "expected text or json" in runtime.fails("--log-format", "xml", "list")


def test_options_as_go_programs_take_them() -> None:
    create = COMMANDS["create"].options

    def parsed(*words: str) -> Parsed:
        return Parsed("create", *parse(create, list(words), "create"))

    given = parsed(
        "--bundle=/b", "-pid-file", "/p", "--no-pivot=false", "id", "--preserve-fds", "3"
    )
    assert given.text("bundle") == "/b"
    assert given.text("pid-file") == "/p"
    assert not given.flag("no-pivot")
    assert given.number("preserve-fds") == 3
    assert given.arguments == ["id"]
    assert parsed("--", "-id").arguments == ["-id"]
    with pytest.raises(InvalidArgument, match="--bundle needs a value"):
        parsed("--bundle")
    with pytest.raises(InvalidArgument, match="expected true or false"):
        parsed("--no-pivot=maybe")
    values, rest = parse(COMMANDS["exec"].options, ["-t", "id", "ls", "-l"], "exec", stops=True)
    assert (values, rest) == ({"tty": ["true"]}, ["id", "ls", "-l"])
    assert {option.name for option in GLOBAL} >= {"root", "log", "systemd-cgroup", "rootless"}


def test_state_imports_little(tmp_path: Path) -> None:
    """Each step of a container's life is a program start: its imports are its cost."""
    program = COMMAND[-1].replace("sys.exit(main())", "main(); print(sorted(sys.modules))")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, "--root", str(tmp_path), "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(eval(done.stdout.splitlines()[-1]))
    assert not modules & {
        "argparse",
        "asyncio",
        "dataclasses",
        "email",
        "inspect",
        "logging",
        "pathlib",
        "shutil",
        "socket",
        "subprocess",
        "tempfile",
        "sampan.runtime.launch",
        "sampan.runtime.rootfs",
    }
