"""Log options: what is refused, in Docker's words, and what a monitor is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sampan.engine.config import ContainerConfig, HostConfig, LogConfig
from sampan.engine.container import ContainerRecord
from sampan.engine.log_drivers import check, log_place, monitor_options
from sampan.engine.settings import Defaults
from sampan.errors import InvalidArgument, SampanError
from sampan.runtime.supervisor.messages import LogOptions

ID = "0123456789abcdef" * 4


def record(kind: str, options: dict[str, str] | None = None, **config: Any) -> ContainerRecord:
    return ContainerRecord(
        id=ID,
        name="web",
        created=1_700_000_000_000_000_000,
        image_id="sha256:" + "ab" * 32,
        image_name="busybox:1",
        driver="overlay2",
        config=ContainerConfig(**config),
        host_config=HostConfig(log_config=LogConfig(type=kind, config=options or {})),
        args=("sh", "-c", "echo hi"),
    )


def told(kind: str, options: dict[str, str] | None = None, **config: Any) -> LogOptions:
    """What the monitor makes of it: nothing here may be unknown to it."""
    return LogOptions.from_json(monitor_options(record(kind, options, **config), "/c"))


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("foo", {}, "no log driver named 'foo' is registered"),
        ("gelf", {}, "no log driver named 'gelf'"),
        ("json-file", {"x": "y"}, "unknown log opt 'x' for json-file log driver"),
        ("local", {"syslog-address": "x"}, "unknown log opt 'syslog-address' for local"),
        ("journald", {"max-size": "1m"}, "unknown log opt 'max-size' for journald log driver"),
        ("none", {"max-size": "1m"}, "unknown log opt 'max-size' for none"),
        ("json-file", {"mode": "foo"}, "logging mode not supported: foo"),
        ("json-file", {"max-buffer-size": "1m"}, "only supported with 'mode=non-blocking'"),
        (
            "json-file",
            {"mode": "non-blocking", "max-buffer-size": "1x"},
            "error parsing option max-buffer-size: invalid size: '1x'",
        ),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-size": "-1"}, "invalid size: '-1'"),
        ("json-file", {"max-size": "foo"}, "invalid size: 'foo'"),
        ("json-file", {"max-size": "1m", "max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-size": "1m", "max-file": "x"}, "max-file: 'x' is not a number"),
        ("json-file", {"max-file": "3"}, "max-file needs max-size"),
        ("json-file", {"compress": "true"}, "compress cannot be true when max-file is less than 2"),
        ("json-file", {"compress": "maybe"}, "compress: 'maybe' is neither true nor false"),
        ("local", {"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
        ("json-file", {"labels-regex": "["}, "labels-regex: '['"),
        ("json-file", {"tag": "{{"}, "unclosed action"),
        ("syslog", {"syslog-address": "foo://x"}, "in form proto://address, got foo://x"),
        ("syslog", {"syslog-address": "tcp://:514"}, "the host is missing"),
        ("syslog", {"syslog-address": "tcp://h:99999"}, "Port"),
        ("syslog", {"syslog-address": "unix:///no/such"}, "/no/such: no such file"),
        ("syslog", {"syslog-address": "tcp+tls://h:1"}, "tcp+tls is not supported"),
        ("syslog", {"syslog-tls-ca-cert": "/x"}, "'syslog-tls-ca-cert' is not supported"),
        ("syslog", {"syslog-facility": "foo"}, "invalid syslog facility 'foo'"),
        ("syslog", {"syslog-facility": "24"}, "invalid syslog facility '24'"),
        ("syslog", {"syslog-format": "foo"}, "invalid syslog format 'foo'"),
        ("syslog", {"cache-max-file": "0"}, "cache-max-file cannot be less than 1"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_by_name(kind: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(SampanError) as caught:
        check(LogConfig(type=kind, config=options))
    assert words in caught.value.message


def test_the_daemons_defaults_complete_what_a_container_says() -> None:
    defaults = Defaults(log_driver="local", log_options={"max-size": "10m", "max-file": "3"})

    def applied(**log: Any) -> LogConfig:
        return defaults.applied(HostConfig(log_config=LogConfig(**log))).log_config

    assert applied() == LogConfig(type="local", config=defaults.log_options)
    own = applied(config={"max-size": "1m"})
    assert own == LogConfig(type="local", config={"max-size": "1m", "max-file": "3"})
    # Those of another driver are not for it.
    assert applied(type="json-file") == LogConfig(type="json-file")


def test_files_have_dockers_sizes_and_numbers() -> None:
    plain = told("json-file")
    assert (plain.path, plain.max_size, plain.max_file) == (f"/c/{ID}-json.log", None, 1)
    assert plain.blocking
    rotated = told("json-file", {"max-size": "10m", "max-file": "3", "compress": "true"})
    assert (rotated.max_size, rotated.max_file, rotated.compress) == (10_000_000, 3, True)
    local = told("local")
    assert local.path == "/c/local-logs/container.log"
    assert (local.max_size, local.max_file, local.compress) == (20 << 20, 5, True)
    loose = told("local", {"mode": "non-blocking", "max-buffer-size": "2m"})
    assert (loose.blocking, loose.buffer_size) == (False, 2 << 20)


def test_what_cannot_be_read_has_a_copy_that_can() -> None:
    sent = told("syslog", {"syslog-address": "udp://127.0.0.1", "cache-max-size": "1m"})
    assert sent.address == "udp://127.0.0.1:514"
    assert sent.cache is not None
    assert (sent.cache.path, sent.cache.max_size) == ("/c/local-logs/container.log", 1_000_000)
    alone = {"syslog-address": "tcp://[::1]:99", "cache-disabled": "true"}
    assert told("syslog", alone).cache is None
    assert told("syslog", alone).address == "tcp://[::1]:99"
    assert log_place(record("syslog", alone), "/c") is None
    assert log_place(record("none"), "/c") is None


def test_labels_and_variables_are_chosen_by_name_and_pattern() -> None:
    options = {"labels": "a,missing", "labels-regex": "^x", "env": "ONE", "env-regex": "^T.O$"}
    config = {
        "labels": {"a": "1", "b": "2", "x1": "3"},
        "env": ["ONE=1", "TWO=2=2", "TWOS=3", "PATH=/bin"],
    }
    attributes = {"a": "1", "x1": "3", "ONE": "1", "TWO": "2=2"}
    assert told("json-file", options, **config).tag_attrs == attributes
    fields = told("journald", options, **config).fields
    assert fields["CONTAINER_NAME"] == "web"
    assert fields["SYSLOG_IDENTIFIER"] == ID[:12]
    assert (fields["A"], fields["X1"], fields["TWO"]) == ("1", "3", "2=2")
    odd = told("journald", {"labels": "_my.label-x"}, labels={"_my.label-x": "v"}).fields
    assert odd["MY_LABEL_X"] == "v"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{.ID}}", ID[:12]),
        ("{{.Name}}/{{.ImageName}}", "web/busybox:1"),
        ("{{.ImageID}}", "sha256:ababa"),
        ("{{.FullID}} {{.DaemonName}}", f"{ID} sampan"),
        ('{{index .ContainerLabels "a"}}', "1"),
        ("{{.Command}}", "sh -c echo hi"),
    ],
)
def test_a_tag_is_a_template(text: str, expected: str) -> None:
    options = told("json-file", {"tag": text}, labels={"a": "1"})
    assert options.tag_attrs == {"tag": expected}
    assert told("syslog", {"tag": text}, labels={"a": "1"}).tag == expected


def test_without_a_tag_senders_have_the_id_and_files_have_none() -> None:
    assert told("json-file").tag_attrs == {}
    assert told("syslog").tag == ID[:12]


def test_a_tag_that_names_nothing_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="Foo"):
        monitor_options(record("json-file", {"tag": "{{.Foo}}"}), "/c")


def test_facilities_have_names_and_numbers() -> None:
    facilities = {"": 3, "kern": 0, "local7": 23, "17": 17}
    for text, number in facilities.items():
        assert told("syslog", {"syslog-facility": text}).facility == number


def test_a_record_of_an_earlier_version_logs_to_json_file() -> None:
    assert msgspec.structs.asdict(log_place(record(""), "/c") or LogConfig())["path"].endswith(
        "-json.log"
    )
