"""The folder of voices: strict, forgiving to its neighbours, and read without torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.model_info import LANGUAGES, ModelInfo, foresee_card, read_card
from engine.voices.folder import FolderVoice, VoiceFolderError, read_folder, read_voice, signature, write_clone
from engine.voices.listing import NARRATOR, list_voices
from tests.engine.support.qwen3 import put_voice, write_wave
from tests.engine.support.tiny_models import tiny_directory

ROOT = Path(__file__).parents[3]
BASE = ModelInfo("base", "1b7", (), LANGUAGES)
DESIGN = ModelInfo("voice_design", "1b7", (), LANGUAGES)


def test_read_voice_reads_clone(tmp_path):
    directory = put_voice(
        tmp_path, "anna", 1, " Good evening. \n", kind="clone", description="Our Anna", language="de-DE"
    )
    assert read_voice(directory) == FolderVoice(
        "anna", "clone", "Our Anna", ("de-DE",), recording=directory / "reference.wav", transcript="Good evening."
    )


def test_read_voice_accepts_byte_order_mark_windows_lines_and_unquoted_norwegian(tmp_path):
    directory = put_voice(tmp_path, "anna", 1, "\ufeffGood evening.\r\nIt rains.\r\n", kind="clone")
    (directory / "voice.yaml").write_bytes(b"\xef\xbb\xbfkind: clone\r\nlanguage: [no, de]\r\n")
    voice = read_voice(directory)
    assert (voice.transcript, voice.languages) == ("Good evening.\nIt rains.", ("no", "de"))


def test_read_voice_reads_designed_voice(tmp_path):
    directory = put_voice(
        tmp_path,
        "old_man",
        kind="design",
        instruct="A  very\nold man.",
        language=["en-GB", "de"],
        styles={"sad": "Sad."},
    )
    voice = read_voice(directory)
    assert (voice.description, voice.instruct) == ("Old man", "A very old man.")
    assert (voice.languages, voice.styles) == (("en-GB", "de"), {"sad": "Sad."})


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("kind: klone", r"voice\.yaml: `kind` must be clone or design, not 'klone'"),
        ("description: x", r"`kind` must be clone or design, not None"),
        ("kind: clone\nlangauge: de", "unknown key 'langauge'; did you mean language"),
        ("kind: clone\ninstruct: x", "unknown key 'instruct'; known are kind, description, language"),
        ("kind: design", "`instruct` is missing"),
        ("kind: design\ninstruct: 5", "`instruct` must be a text, not 5"),
        ("kind: design\ninstruct: x\nstyles: [a]", "`styles` must map names to words"),
        ("kind: design\ninstruct: x\nstyles: {a b: c}", "'a b': a voice's name must not contain a blank"),
        ("kind: design\ninstruct: x\nlanguage: 5", "`language` must be a tag such as de-DE"),
        ("kind: [", r"voice\.yaml: no valid YAML"),
        ("kind: &a [x]\ndescription: *a", "aliases are not supported"),
        ("a: &a {kind: clone}\n<<: *a", "aliases are not supported"),
        (f"kind: {['x'] * 5000}", r"must be clone or design, not \['x', 'x', 'x', 'x', 'x', 'x', \.\.\.\]$"),
        ("- kind", r"expected keys such as `kind: clone`"),
        ("", r"expected keys such as `kind: clone`"),
        ("kind: clone\n" + "#" * 70_000, "is larger than 65536 bytes"),
    ],
)
def test_read_voice_rejects_invalid_yaml_with_reason(tmp_path, sheet, message):
    directory = put_voice(tmp_path, "anna", 1)
    (directory / "voice.yaml").write_text(sheet)
    with pytest.raises(VoiceFolderError, match=message):
        read_voice(directory)


def test_read_voice_names_missing_or_ambiguous_files(tmp_path):
    directory = put_voice(tmp_path, "anna", kind="clone")
    with pytest.raises(
        VoiceFolderError, match=re.escape("the recording is missing: put reference.wav or reference.flac")
    ):
        read_voice(directory)
    write_wave(directory / "reference.wav")
    write_wave(directory / "reference.flac")
    with pytest.raises(VoiceFolderError, match="there are two recordings"):
        read_voice(directory)
    (directory / "reference.flac").unlink()
    (directory / "transcript.txt").write_text(" \n")
    with pytest.raises(VoiceFolderError, match=r"transcript\.txt: is empty: write down the words of the recording"):
        read_voice(directory)
    (directory / "transcript.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(VoiceFolderError, match="is not UTF-8"):
        read_voice(directory)
    (directory / "voice.yaml").unlink()
    with pytest.raises(VoiceFolderError, match=r"voice\.yaml: No such file"):
        read_voice(directory)


@pytest.mark.parametrize(
    "sheet",
    [
        "kind: design\ndescription: 2020-99-99\n",
        "[" * 5000,
        "kind: " + "9" * 5000,
        'kind: design\ninstruct: "\\ud800"\n',
    ],
    ids=["no date", "deep", "a long number", "half a character"],
)
def test_read_folder_skips_malicious_yaml(tmp_path, sheet):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "voice.yaml").write_text(sheet)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "voice.yaml").write_text("kind: design\ninstruct: A calm voice.\n")
    voices, problems = read_folder(tmp_path)
    assert list(voices) == ["good"]
    assert list(problems) == ["bad"]


def test_read_folder_skips_broken_voices(tmp_path):
    put_voice(tmp_path, "anna", 1, kind="clone")
    put_voice(tmp_path, "broken", kind="clone")
    put_voice(tmp_path, "a b", 1, kind="clone")
    put_voice(tmp_path, ".hidden", 1, kind="clone")
    (tmp_path / "notes.txt").write_text("no voice")
    voices, problems = read_folder(tmp_path)
    assert set(voices) == {"anna"}
    assert set(problems) == {"broken", "a b"}
    assert read_folder(tmp_path / "missing") == ({}, {})


def test_signature_changes_with_voice_files_only(tmp_path):
    directory = put_voice(tmp_path, "anna", 1, kind="clone")
    before = signature(tmp_path)
    (directory / ".prompt-x.npz").write_text("kept")
    assert signature(tmp_path) == before
    (directory / "transcript.txt").write_text("Hello.")
    changed = signature(tmp_path)
    assert changed != before
    directory.rename(tmp_path / "anne")
    assert signature(tmp_path) not in (before, changed)
    assert signature(tmp_path / "missing") == ()


def test_write_clone_round_trips_and_replaces_old_files(tmp_path):
    recording = write_wave(tmp_path / "x.wav")
    for words in ("First.", "Second."):
        voice = FolderVoice("anna", "clone", "Anna", ("de-DE",), recording=recording, transcript=words)
        directory = write_clone(tmp_path / "voices", voice)
    found = read_voice(directory)
    assert (found.languages, found.transcript) == (("de-DE",), "Second.")
    assert found.recording.read_bytes() == recording.read_bytes()
    assert [entry.name for entry in (tmp_path / "voices").iterdir()] == ["anna"]


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60))
def test_read_voice_raises_voice_folder_error_for_any_bytes(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("voices") / "anna"
    directory.mkdir()
    (directory / "voice.yaml").write_bytes(data)
    with pytest.raises(VoiceFolderError, match="anna"):
        read_voice(directory)


# --- who can speak -------------------------------------------------------------------------------------------------


def test_list_voices_returns_voices_of_the_model_kind(tmp_path):
    put_voice(tmp_path, "anna", 1, kind="clone", language="de-DE")
    put_voice(tmp_path, "ghost", kind="design", instruct="A ghost.", styles={"sad": "Sad."})
    put_voice(tmp_path, "olaf", 2, kind="clone", language="nb-NO")
    listing = list_voices(BASE, tmp_path)
    assert [(voice.id, voice.languages[:3], voice.follows_instruct) for voice in listing.voices] == [
        ("anna", ("de-DE", "zh", "en"), False)
    ]
    assert "needs a voice_design model, and this one is base" in listing.problems["ghost"]
    assert "does not speak 'nb-NO'; it speaks zh, en" in listing.problems["olaf"]
    ghost, narrator = list_voices(DESIGN, tmp_path).voices
    assert narrator.id == NARRATOR.name
    assert (ghost.id, ghost.styles, ghost.follows_instruct) == ("ghost", ("sad",), True)


def test_list_voices_of_empty_folder_is_narrator_for_voice_design_only(tmp_path):
    assert [voice.id for voice in list_voices(DESIGN, tmp_path).voices] == [NARRATOR.name]
    assert list_voices(BASE, tmp_path).voices == ()


@pytest.mark.parametrize("kind", ["base", "custom_voice", "voice_design"])
@pytest.mark.parametrize("size", ["1b7", "0b6"])
def test_card_of_checkpoint_equals_card_of_published_name(kind, size):
    word = {"base": "Base", "custom_voice": "CustomVoice", "voice_design": "VoiceDesign"}[kind]
    published = foresee_card(f"Qwen/Qwen3-TTS-12Hz-{'1.7B' if size == '1b7' else '0.6B'}-{word}", None, None)
    card = read_card(tiny_directory(kind, size))
    assert (card.kind, card.size) == (published.kind, published.size) == (kind, size)
    assert set(card.languages) == set(published.languages) == set(LANGUAGES)
    assert {voice.id for voice in card.preset_voices()} == {voice.id for voice in published.preset_voices()}
    assert card.follows_instruct == (kind == "voice_design" or (kind == "custom_voice" and size == "1b7"))


def test_preset_voices_have_description_and_native_language_first():
    voices = foresee_card("Qwen/Qwen3-TTS-12Hz-0.6B-CustomVoice", None, None).preset_voices()
    first = {voice.id: voice.languages[0] for voice in voices}
    assert len(first) == 9
    assert (first["ryan"], first["vivian"], first["ono_anna"], first["sohee"]) == ("en", "zh", "ja", "ko")
    assert all(len(voice.languages) == 10 and ": " in voice.description for voice in voices)


def test_card_of_unknown_hub_id_is_guessed_or_read_from_cache(tmp_path):
    assert foresee_card("someone/my-tts-Base-tuned", None, tmp_path).kind == "base"
    assert foresee_card("someone/my-tts", None, tmp_path).kind == "custom_voice"
    snapshot = tmp_path / "models--someone--my-tts" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes((tiny_directory("voice_design") / "config.json").read_bytes())
    (tmp_path / "models--someone--my-tts" / "refs").mkdir()
    (tmp_path / "models--someone--my-tts" / "refs" / "main").write_text("0" * 40)
    assert foresee_card("someone/my-tts", None, tmp_path).kind == "voice_design"


def test_voices_are_listed_without_importing_torch(tmp_path):
    code = (
        "import sys; from engine.worker.backends.qwen3 import Qwen3Backend; from engine.ipc.settings import *\n"
        "auto = dict.fromkeys(('device', 'dtype', 'codec_dtype', 'kernels'), 'auto')\n"
        "rest = dict.fromkeys(('revision', 'offline', 'cache_dir', 'cuda_graphs', 'trim_silence'))\n"
        "model = ModelSettings(sys.argv[1], sys.argv[2], max_jobs=4, sampling={}, **auto, **rest)\n"
        "print(len(Qwen3Backend(Settings('x', 'y', model=model)).voices()),\n"
        "      [name for name in ('torch', 'numpy', 'huggingface_hub', 'soundfile') if name in sys.modules])"
    )
    for name in ("Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice", str(tiny_directory("custom_voice"))):
        finished = subprocess.run(
            [sys.executable, "-c", code, name, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert finished.stdout == "9 []\n"
