import json
import stat

import pytest

from qwentts_daemon.config.paths import preferences_path
from qwentts_daemon.mqtt.preferences import Preferences, PreferencesFile


def test_they_come_back(tmp_path):
    file = PreferencesFile(tmp_path / "deep" / "preferences.json")
    assert file.load() == Preferences()
    file.save(Preferences("ryan", None, "whisper", 30))
    assert file.load() == Preferences("ryan", None, "whisper", 30)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["preferences.json"]
    assert stat.S_IMODE((tmp_path / "deep" / "preferences.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{", '{"volume": 200}', '{"volume": true}', '{"voice": 5}', "\x00", '"x"'])
def test_a_damaged_file_is_told_and_left_aside(tmp_path, caplog, text):
    path = tmp_path / "preferences.json"
    path.write_text(text)
    assert PreferencesFile(path).load() == Preferences()
    assert len(caplog.records) == 1


def test_what_a_later_version_has_written_is_read(tmp_path):
    path = tmp_path / "preferences.json"
    path.write_text(json.dumps({"voice": "ryan", "loudness": 3}))
    assert PreferencesFile(path).load() == Preferences("ryan")


def test_a_place_that_cannot_be_written_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    file = PreferencesFile(tmp_path / "file" / "preferences.json")
    file.save(Preferences(volume=1))
    file.save(Preferences(volume=2))
    assert len(caplog.records) == 1


def test_where_they_lie():
    assert str(preferences_path({"STATE_DIRECTORY": "/var/lib/qwentts:/x"})) == "/var/lib/qwentts/preferences.json"
    assert str(preferences_path({"XDG_DATA_HOME": "/d"})) == "/d/qwentts/preferences.json"
