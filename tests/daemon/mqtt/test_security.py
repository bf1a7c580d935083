"""Authentication and TLS at the broker, and what is logged when a connection is refused."""

import re
import subprocess

import pytest

from qwentts_daemon.config.loader import load
from qwentts_daemon.config.schema import Config
from qwentts_daemon.doctor.broker import check_broker
from qwentts_daemon.doctor.findings import Level
from qwentts_daemon.errors import ConfigError
from qwentts_daemon.mqtt import connection as mqtt_connection
from qwentts_daemon.mqtt.connection import Broker, BrokerError, connected
from tests.support.broker import broker, ear, free_port, needs_mosquitto
from tests.support.certificates import Authority
from tests.support.harness import ROOT, daemon, speak

PASSWORD = "0123 öß"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def passwords(tmp_path_factory):
    """A password file of mosquitto's."""
    path = tmp_path_factory.mktemp("passwords") / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(path), "voice", PASSWORD], check=True)
    subprocess.run(["mosquitto_passwd", "-b", str(path), "person", "p"], check=True)
    return path


async def why_not(settings, environment=None):
    """Return what is logged about a connection that cannot be made."""
    config = load(None, {}, settings)
    with pytest.raises(BrokerError) as refused:
        async with connected(Broker(config.mqtt, "test", environment or {}), print):
            pass
    return str(refused.value)


def secured(certificate, authority, *more):
    return [f"certfile {certificate[0]}", f"keyfile {certificate[1]}", f"cafile {authority.path}", *more]


def trusting(mosquitto, authority):
    return [*mosquitto.settings, "mqtt.tls=true", f"mqtt.ca_file={authority.path}"]


@needs_mosquitto
async def test_tls_with_client_certificate_and_password_connects(tmp_path, authority, passwords):
    certificate, ours = authority.certificate("broker"), authority.certificate("voice")
    password_file = tmp_path / "password"
    password_file.write_text(f"{PASSWORD}\n")
    lines = secured(
        certificate, authority, "require_certificate true", "allow_anonymous false", f"password_file {passwords}"
    )
    with broker(tmp_path, *lines) as mosquitto:
        parts = [*trusting(mosquitto, authority), f"mqtt.cert_file={ours[0]}", f"mqtt.key_file={ours[1]}"]
        parts += ["mqtt.username=voice", f"mqtt.password_file={password_file}"]
        with daemon(*parts, XDG_DATA_HOME=str(tmp_path)) as speaking:
            speaking.wait_for("MQTT: connected")
            assert PASSWORD not in "\n".join(speaking.lines)


@needs_mosquitto
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_wrong_password_is_logged_once_and_wyoming_keeps_working(tmp_path, passwords, protocol):
    lines = ["allow_anonymous false", f"password_file {passwords}"]
    with broker(tmp_path, *lines) as mosquitto:
        parts = [*mosquitto.settings, "mqtt.username=voice", f"mqtt.protocol='{protocol}'"]
        with daemon(*parts, XDG_DATA_HOME=str(tmp_path), QWENTTS_MQTT_PASSWORD="wrong") as speaking:
            speaking.wait_for("refuses user 'voice': wrong user name or password.*tried again", count=3)
            loud = [line for line in speaking.lines if "refuses user" in line and "DEBUG" not in line]
            assert len(loud) == 1, loud
            assert (await speak(speaking, "I speak.")).seconds > 0.3


@needs_mosquitto
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_missing_username_is_reported(tmp_path, passwords, protocol):
    with broker(tmp_path, "allow_anonymous false", f"password_file {passwords}") as mosquitto:
        reason = await why_not([*mosquitto.settings, f"mqtt.protocol='{protocol}'"])
        assert "a client without a user name: wrong user name or password" in reason


@needs_mosquitto
async def test_password_from_systemd_credential(tmp_path, passwords):
    (tmp_path / "mqtt_password").write_text(PASSWORD)
    with broker(tmp_path, "allow_anonymous false", f"password_file {passwords}") as mosquitto:
        config = load(None, {}, [*mosquitto.settings, "mqtt.username=voice"])
        async with connected(
            Broker(config.mqtt, "test", {"CREDENTIALS_DIRECTORY": str(tmp_path)}), print
        ) as mqtt_connection:
            await mqtt_connection.publish("a", "b", qos=1)


@needs_mosquitto
async def test_unknown_certificate_authority_is_reported(tmp_path, authority):
    other = Authority(tmp_path, "other")
    with broker(tmp_path, *secured(other.certificate("broker"), other)) as mosquitto:
        reason = await why_not(trusting(mosquitto, authority))
        assert "the broker's certificate is not signed by a trusted CA (mqtt.ca_file)" in reason


@needs_mosquitto
async def test_expired_certificate_is_reported(tmp_path, authority):
    with broker(tmp_path, *secured(authority.certificate("expired", valid_days=-1), authority)) as mosquitto:
        assert "the broker's certificate has expired" in await why_not(trusting(mosquitto, authority))


@needs_mosquitto
async def test_hostname_mismatch_is_reported(tmp_path, authority):
    with broker(tmp_path, *secured(authority.certificate("another", host="10.9.8.7"), authority)) as mosquitto:
        assert "the broker's certificate is for another name" in await why_not(trusting(mosquitto, authority))


@needs_mosquitto
async def test_missing_client_certificate_is_reported(tmp_path, authority):
    lines = secured(authority.certificate("broker"), authority, "require_certificate true")
    with broker(tmp_path, *lines) as mosquitto:
        assert "refuses this client's certificate (mqtt.cert_file)" in await why_not(trusting(mosquitto, authority))


@needs_mosquitto
async def test_tls_to_plain_port_is_reported(tmp_path, authority):
    with broker(tmp_path) as mosquitto:
        reason = await why_not(trusting(mosquitto, authority))
        assert "does it speak TLS at this port" in reason


async def test_connection_errors_are_reported(tmp_path):
    assert "Connection refused" in await why_not(["mqtt.host=127.0.0.1", f"mqtt.port={free_port()}"])
    assert "No such file" in await why_not([f"mqtt.host=unix://{tmp_path}/none"])
    assert "no such host" in await why_not(["mqtt.host=no-such-host.invalid"])


@needs_mosquitto
async def test_silent_broker_is_not_reported_as_tls_mismatch(tmp_path, monkeypatch):
    monkeypatch.setattr(mqtt_connection, "ANSWER_TIMEOUT_S", 0.5)
    with broker(tmp_path) as mosquitto:
        way = Broker(load(None, {}, mosquitto.settings).mqtt, "test", {})

        async def fall_silent():
            async with connected(way, print) as mqtt_connection:
                mosquitto.pause()
                await mqtt_connection.subscribe([("a", 1)])

        with pytest.raises(BrokerError, match=r"does not answer$"):
            await fall_silent()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            ["mqtt.password_file=/nowhere/password", "mqtt.username=v"],
            "mqtt.password_file /nowhere/password: No such file",
        ),
        (["mqtt.tls=true", "mqtt.ca_file=/nowhere/ca"], "mqtt.ca_file /nowhere/ca: No such file"),
        (["mqtt.tls=true", "mqtt.ca_file={empty}"], "it holds no certificate"),
        (["mqtt.tls=true", "mqtt.cert_file={empty}"], "it does not match mqtt.key_file"),
    ],
)
def test_unusable_tls_files_stop_start(tmp_path, settings, reason):
    (tmp_path / "empty").write_text("")
    parts = [setting.format(empty=tmp_path / "empty") for setting in settings]
    config: Config = load(None, {}, ["mqtt.host=localhost", *parts])
    made = Broker(config.mqtt, "test", {})
    with pytest.raises(ConfigError, match=reason):
        made.password(), made.tls_context()


@pytest.mark.parametrize("text", ["0123", "null", "true", "{a: b}", "#x"])
def test_password_from_environment_is_literal(text):
    config = load(None, {"QWENTTS_MQTT_PASSWORD": text, "QWENTTS_MQTT_USERNAME": "voice"})
    assert config.mqtt.password.get_secret_value() == text


def test_password_is_never_printed(tmp_path):
    with pytest.raises(ConfigError) as shown:
        load(None, {}, ["mqtt.password=s3cret"])
    assert "mqtt.password_file or QWENTTS_MQTT_PASSWORD" in str(shown.value)
    path = tmp_path / "config.yaml"
    for text in ("mqtt: {password: s3cret, host: a/b}", "mqtt: {password: s3cret}", "mqtt: {password: [s3cret]}"):
        path.write_text(text)
        with pytest.raises(ConfigError) as refused:
            load(path, {})
        assert "s3cret" not in f"{shown.value} {refused.value}"
    path.write_text("mqtt: {password: s3cret, username: voice}")
    assert "s3cret" not in load(path, {}).model_dump_json() + repr(load(path, {}))


@needs_mosquitto
async def test_readme_acl_is_sufficient(tmp_path, passwords):
    acl = tmp_path / "acl"
    acl.write_text(
        re.search(r"```\n(user voice\n.*?)```", (ROOT / "docs/mqtt.md").read_text(), re.S)[1]
        + "user person\ntopic readwrite #\n"
    )
    lines = ["allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}"]
    with broker(tmp_path, *lines) as mosquitto:
        target = "announce.targets={kitchen: {type: command, command: [sh, -c, 'cat > /dev/null']}}"
        parts = [*mosquitto.settings, target, "mqtt.username=voice"]
        with daemon(*parts, XDG_DATA_HOME=str(tmp_path), QWENTTS_MQTT_PASSWORD=PASSWORD):
            async with ear(mosquitto.port, username="person", password="p") as heard:
                await heard.until(lambda: heard.on("homeassistant/device/qwentts_test/config"))
                await heard.say("Allowed.", id="allowed")
                await heard.event("finished", "allowed")


@needs_mosquitto
async def test_missing_acl_rights_are_logged(tmp_path):
    (tmp_path / "acl").write_text("topic read #\ntopic write qwentts/#\n")
    with (
        broker(tmp_path, f"acl_file {tmp_path}/acl") as mosquitto,
        daemon(*mosquitto.settings, XDG_DATA_HOME=str(tmp_path)) as speaking,
    ):
        speaking.wait_for("WARNING .*does not let us show homeassistant/device/qwentts_test/config .*look at its ACL")
        assert not [line for line in speaking.lines if "does not let us show qwentts" in line]


@needs_mosquitto
def test_doctor_checks_broker(tmp_path, passwords):
    with broker(tmp_path, "allow_anonymous false", f"password_file {passwords}") as mosquitto:
        user = [*mosquitto.settings, "mqtt.username=voice"]
        for password, level, text in (
            (PASSWORD, Level.OK, "lets this daemon in"),
            ("sesame", Level.ERROR, "wrong user"),
        ):
            config = load(None, {"QWENTTS_MQTT_PASSWORD": password}, user)
            (finding,) = check_broker(config.mqtt)
            assert (finding.level, text in finding.text) == (level, True), finding
            assert password not in finding.text


def test_doctor_explains_broker_connection_errors(tmp_path):
    (gone,) = check_broker(load(None, {}, ["mqtt.host=127.0.0.1", f"mqtt.port={free_port()}"]).mqtt)
    assert gone.level is Level.ERROR
    assert "refused" in gone.text
    missing = ["mqtt.host=127.0.0.1", "mqtt.username=voice", f"mqtt.password_file={tmp_path}/none"]
    (unread,) = check_broker(load(None, {}, missing).mqtt)
    assert "mqtt.password_file" in unread.text
    assert check_broker(load(None, {}, []).mqtt) == []
