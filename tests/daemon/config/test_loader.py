import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwentts_daemon.config import ownership, paths
from qwentts_daemon.config.loader import load
from qwentts_daemon.config.paths import default_path, default_paths, voices_dir
from qwentts_daemon.config.schema import Config, Voices
from qwentts_daemon.errors import ConfigError


def written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_later_sources_override_earlier(tmp_path):
    path = written(tmp_path, "wyoming: {max_connections: 1, idle_timeout: 1, name: file}\n")
    environment = {"QWENTTS_WYOMING_MAX_CONNECTIONS": "2", "QWENTTS_WYOMING_IDLE_TIMEOUT": "2", "HOME": "/"}
    config = load(path, environment, ["wyoming.max_connections=3"])
    assert (config.wyoming.max_connections, config.wyoming.idle_timeout, config.wyoming.name) == (3, 2.0, "file")


def test_empty_sources_give_defaults(tmp_path):
    assert load(None, {}) == load(written(tmp_path, ""), {}) == load(written(tmp_path, "wyoming:\n"), {}) == Config()


def test_load_understands_unquoted_norwegian(tmp_path):
    voices = load(written(tmp_path, "voices: {language: no, pin_languages: [no, nb]}"), {}).voices
    assert (voices.language, voices.pin_languages) == ("no", ("no", "nb"))


def test_environment_values_are_yaml():
    environment = {"QWENTTS_VOICES_PIN_LANGUAGES": "[de-DE, fr]", "QWENTTS_VOICES_STYLES": "{calm: Speak calmly.}"}
    voices = load(None, environment).voices
    assert voices.pin_languages == ("de-DE", "fr")
    assert voices.styles == {"calm": "Speak calmly."}


def test_voices_dir_of_root_is_the_service_state(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "SERVICE_STATE", tmp_path)
    monkeypatch.setattr(paths, "SERVICE_STATE", tmp_path)
    home = {"XDG_DATA_HOME": "/home/anna/data"}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert voices_dir(Config(), home) == tmp_path / "voices"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert voices_dir(Config(), home) == Path("/home/anna/data/qwentts/voices")
    assert voices_dir(Config(), home | {"STATE_DIRECTORY": "/state"}) == Path("/state/voices")
    assert voices_dir(Config(voices=Voices(dir="/mine")), home) == Path("/mine")


def test_default_paths_prefer_user_config():
    first, second = default_paths({"XDG_CONFIG_HOME": "/home/anna/.config"})
    assert (str(first), str(second)) == ("/home/anna/.config/qwentts/config.yaml", "/etc/qwentts/config.yaml")


def test_default_path_names_unreadable_path():
    with pytest.raises(ConfigError, match=r"config\.yaml: File name too long; name a file with --config"):
        default_path({"XDG_CONFIG_HOME": "/" + "x" * 300})


def test_devices_accept_a_single_string(tmp_path):
    assert load(None, {"QWENTTS_ENGINE_DEVICES": "cuda:1"}).engine.devices == ("cuda:1",)
    path = written(tmp_path, "engine: {devices: [cuda:0, cuda:1]}")
    assert load(path, {}).engine.devices == ("cuda:0", "cuda:1")


def test_targets_of_every_type_load(tmp_path):
    text = """announce: {targets: {
        kitchen: {type: command, command: [aplay, -r, "{rate}"], volume: 0.5, lead_silence: 1}, hall: {type: mqtt},
        attic: {type: wyoming, uri: "unix:///run/snd.sock"}, house: {type: snapcast, fifo: /run/snap},
        media: {type: url}, archive: {type: wav, directory: /srv, name: "{time}-{target}-{id}.wav"}}}"""
    targets = load(written(tmp_path, text), {}).announce.targets
    assert [target.type for target in targets.values()] == ["command", "mqtt", "wyoming", "snapcast", "url", "wav"]
    assert targets["kitchen"].command == ("aplay", "-r", "{rate}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wyoming: {prot: 1}", r"wyoming\.prot: unknown key; known are "),
        ("wyoming: {max_conections: 1}", r"wyoming\.max_conections: unknown key; did you mean max_connections\?"),
        ("wyomin: {}", r"wyomin: unknown key; did you mean wyoming\?"),
        ("wyoming: {max_connections: many}", r"wyoming\.max_connections: .*integer.*found 'many'"),
        ("wyoming: {max_connections: 0}", r"wyoming\.max_connections: .*greater than or equal to 1"),
        ("wyoming: {max_connections: true}", r"wyoming\.max_connections: "),
        ("wyoming: {idle_timeout: .inf}", r"wyoming\.idle_timeout: "),
        ("daemon: {shutdown_timeout: .inf}", r"daemon\.shutdown_timeout: .*finite"),
        ("wyoming: {uri: http://x}", r"wyoming\.uri: it must begin with tcp:// or unix://"),
        ("wyoming: {uri: tcp://host}", r"wyoming\.uri: write it as tcp://HOST:PORT"),
        ("wyoming: {uri: 'tcp://host:99999'}", r"wyoming\.uri: "),
        ("wyoming: [1]", r"wyoming: write keys and values"),
        (
            "voices: {pin_languages: de}",
            r"voices\.pin_languages: write a list, such as \[one, another\] \(found 'de'\)",
        ),
        ("announce: {targets: [a]}", r"announce\.targets: write names and values, such as \{name: value\}"),
        ("mqtt: {host: '192.168.1.2:1883'}", r"mqtt\.host: .*set the port in mqtt\.port"),
        (
            "announce: {targets: {a: {type: mqtt}}, default_targets: [a, a]}",
            r"announce: default_targets: the target 'a' is listed twice",
        ),
        ("[1, 2]", r"expected sections"),
        ("a: 'b", r"invalid YAML"),
        ("voices: {default: 2020-99-99}", r"invalid YAML"),
        ("[" * 5000, r"invalid YAML"),
        ("wyoming: {name: a, name: b}", r"duplicate key 'name'"),
        ("wyoming: {1: a}", r"the key 1 must be a string"),
        ("wyoming: {uri: 'unix://run/x.sock'}", r"wyoming\.uri: write it as unix:///PATH, with three slashes"),
        ("voices: {language: German}", r"voices\.language: write a language tag such as de-DE"),
        ("voices: {pin_languages: [klingon]}", r"voices\.pin_languages\.0: write a language tag"),
        (
            "text: {replacements: [{regex: e, replace: '\\1'}]}",
            r"text\.replacements\.0: replace does not match the groups of regex",
        ),
        ("engine: {heartbeat_timeout: 1}", r"engine\.heartbeat_timeout: .*greater than or equal to 3"),
        ("engine: {backend: gpt}", r"engine\.backend: .*'auto', 'qwen3' or 'espeak'"),
        ("text: {replacements: [{regex: '(', replace: ''}]}", r"replacements\.0\.regex: not a regular expression"),
        ("text: {replacements: [{regexp: x, replace: ''}]}", r"did you mean regex\?"),
        ("engine: {devices: gpu}", r"engine\.devices: 'gpu': it must be auto, all, cpu, cuda or cuda:NUMBER"),
        ("engine: {devices: []}", r"engine\.devices: "),
        ("engine: {devices: [cuda:0, all]}", r"engine\.devices: auto, all and cpu must be the only element"),
        ("engine: {devices: [cuda, cuda:0]}", r"engine\.devices: a GPU is listed twice"),
        ("engine: {device: cuda:0}", r"engine\.device: unknown key; did you mean devices\?"),
        ("voices: {styles: {'a b': x}}", r"voices\.styles\..*a name must not be empty or contain spaces"),
        (
            "announce: {targets: {a b: {type: mqtt}}}",
            r"announce\.targets\.a b.*: a target name may contain letters, digits",
        ),
        ("announce: {targets: {a: {}}}", r"announce\.targets\.a: needs a type"),
        ("announce: {targets: {a: 3}}", r"announce\.targets\.a: .*found 3"),
        ("announce: {targets: {a: {type: wave}}}", r"announce\.targets\.a\.type: must be one of 'command', .*'wave'"),
        ("announce: {targets: {a: {type: [wav]}}}", r"announce\.targets\.a\.type: must be one of"),
        ("announce: {targets: {a: {type: command}}}", r"announce\.targets\.a\.command: field required"),
        (
            "announce: {targets: {a: {type: command, command: aplay -q}}}",
            r"targets\.a\.command: write a list of arguments",
        ),
        ("announce: {targets: {a: {type: command, command: []}}}", r"targets\.a\.command: .*at least 1"),
        ("announce: {targets: {command: {type: command, command: [1]}}}", r"targets\.command\.command\.0: .*found 1"),
        ("announce: {targets: {a: {type: mqtt, volum: 1}}}", r"targets\.a\.volum: unknown key; did you mean volume\?"),
        ("announce: {targets: {a: {type: mqtt, uri: x}}}", r"targets\.a\.uri: unknown key; known are lead_silence, "),
        ("announce: {targets: {a: {type: mqtt, volume: 1.1}}}", r"targets\.a\.volume: .*less than or equal to 1"),
        (
            "announce: {targets: {a: {type: wyoming, uri: 'tcp://host'}}}",
            r"targets\.a\.uri: write it as tcp://HOST:PORT",
        ),
        ("announce: {targets: {a: {type: wav, directory: out}}}", r"targets\.a\.directory: write an absolute path"),
        (
            "announce: {targets: {a: {type: wav, directory: /x, name: ../a.wav}}}",
            r"targets\.a\.name: .*without a directory",
        ),
        (
            "announce: {targets: {a: {type: wav, directory: /x, name: '{ip}.wav'}}}",
            r"targets\.a\.name: unknown field in braces",
        ),
        ("http: {public_url: host:80}", r"http\.public_url: write it as http://HOST:PORT"),
    ],
)
def test_load_error_names_key_and_reason(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, text), {})


BOMB = (
    "voices: {styles: [&a0 [x, x, x, x, x, x, x, x, x, x]"
    + "".join(f", &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(8))
    + "]}"
)


@pytest.mark.parametrize(
    "text", ["wyoming: &a {uri: *a}", "wyoming: {uri: &a [*a]}", "&a [*a]", BOMB, "a: &a {b: c}\nwyoming: {<<: *a}"]
)
def test_load_rejects_aliases_which_can_expand_without_bound(tmp_path, text):
    with pytest.raises(ConfigError, match="aliases are not supported") as refused:
        load(written(tmp_path, text), {})
    assert len(str(refused.value)) < 400


def test_load_error_names_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "none.yaml")) + ": No such file"):
        load(tmp_path / "none.yaml", {})


def test_unknown_environment_variable_suggests_nearest():
    with pytest.raises(ConfigError, match="QWENTTS_WYOMING_URL: unknown; did you mean QWENTTS_WYOMING_URI"):
        load(None, {"QWENTTS_WYOMING_URL": "x"})


@pytest.mark.parametrize("word", ["wyoming.uri", "uri=x", ".=x", "wyoming.=x"])
def test_malformed_setting_is_rejected(word):
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load(None, {}, [word])


def test_load_reports_all_problems_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"queue\.max_size.*queue\.max_wait"):
        load(written(tmp_path, "queue: {max_size: x, max_wait: -1}"), {})


@given(st.text(max_size=80))
def test_any_text_loads_or_raises_config_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("config") / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(path, {})
    except ConfigError as error:
        assert str(path) in str(error)
