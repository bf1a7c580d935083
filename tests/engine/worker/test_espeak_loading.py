"""The embedded voice where its library or data are missing or broken."""

import re
import sys
import types
from pathlib import Path

import espeakng_loader
import pytest

from engine.installation import install_command
from engine.worker.backends import BackendError
from engine.worker.backends.espeak import EspeakBackend
from tests.engine.support.espeak import python


def test_import_does_not_load_espeak_library():
    code = "import sys, engine.worker.backends.espeak; print('espeakng_loader' in sys.modules)"
    assert python(code) == "False"


def test_load_without_package_raises_with_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(BackendError, match=re.escape(install_command("espeak"))) as missing:
        EspeakBackend().load()
    assert missing.value.permanent


def test_load_without_library_raises_with_remedy(monkeypatch, tmp_path):
    loader = types.SimpleNamespace(get_library_path=lambda: tmp_path / "none.so", get_data_path=lambda: tmp_path)
    monkeypatch.setitem(sys.modules, "espeakng_loader", loader)
    with pytest.raises(BackendError, match=r"none\.so.*" + re.escape(install_command("espeak"))) as missing:
        EspeakBackend().load()
    assert missing.value.permanent


def test_load_without_data_raises_instead_of_exiting(tmp_path):
    code = (
        "import espeakng_loader, sys; from engine.worker.backends.espeak import BackendError, EspeakBackend\n"
        "espeakng_loader.get_data_path = lambda: sys.argv[1]\n"
        "try: EspeakBackend().load()\n"
        "except BackendError as error: print(error.permanent, error)"
    )
    assert python(code, str(tmp_path)).startswith("True eSpeak NG cannot be loaded (eSpeak NG cannot use its data in ")


def test_damaged_voice_file_fails_only_its_job(tmp_path):
    data = Path(espeakng_loader.get_data_path())
    for entry in data.iterdir():
        if entry.name != "lang":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "lang").mkdir()
    for entry in (data / "lang").iterdir():
        if entry.name != "zle":  # the East Slavic languages
            (tmp_path / "lang" / entry.name).symlink_to(entry)
    code = (
        "import espeakng_loader, sys; from engine.worker.backends.espeak import EspeakBackend\n"
        "from tests.engine.support import espeak as t\n"
        "espeakng_loader.get_data_path = lambda: sys.argv[1]\n"
        "backend = EspeakBackend(); backend.load(); events = []\n"
        "backend.add(t.say('Привет', 'espeak-ru', 1)); backend.add(t.say('Hello', job=2))\n"
        "print(*[type(event).__name__ + str(event.job) for event in t.drain(backend, events)], events[0])"
    )
    output = python(code, str(tmp_path))
    assert output.startswith("Failed1 Started2 Chunk2")
    assert "synthesis-failed" in output
