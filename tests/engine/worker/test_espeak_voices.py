"""The embedded voices with their real data: that each is there, and how one is chosen."""

import pytest

from engine.worker.backends import JobError
from engine.worker.backends.espeak import EspeakBackend
from tests.engine.support.espeak import drain, loudness, say, seconds, spoken

SAMPLES = {
    "espeak-af": "Goeiemôre",
    "espeak-ar": "مرحبا",
    "espeak-bg": "Здравейте",
    "espeak-ca": "Benvinguts",
    "espeak-cs": "Děkuji",
    "espeak-cy": "Croeso",
    "espeak-da": "Velkommen",
    "espeak-de": "Glühbirne",
    "espeak-el": "Καλημέρα",
    "espeak-en-us": "Kitchen",
    "espeak-en-gb": "Kitchen",
    "espeak-es-es": "Mañana",
    "espeak-es-419": "Mañana",
    "espeak-et": "Tere tulemast",
    "espeak-eu": "Egun on",
    "espeak-fa": "سلام دنیا",
    "espeak-fi": "Tervetuloa",
    "espeak-fr-fr": "Bienvenue",
    "espeak-he": "שלום",
    "espeak-hi": "नमस्ते",
    "espeak-hr": "Dobrodošli",
    "espeak-hu": "Köszönöm",
    "espeak-hy": "Բարեւ",
    "espeak-id": "Selamat",
    "espeak-is": "Velkomin",
    "espeak-it": "Benvenuto",
    "espeak-ja": "こんにちは",
    "espeak-ka": "გამარჯობა",
    "espeak-ko": "안녕하세요",
    "espeak-lt": "Labas rytas",
    "espeak-lv": "Labrīt",
    "espeak-mk": "Здраво",
    "espeak-nb": "Velkommen",
    "espeak-nl": "Goedemorgen",
    "espeak-pl": "Dziękuję",
    "espeak-pt-pt": "Obrigado",
    "espeak-pt-br": "Obrigado",
    "espeak-ro": "Mulțumesc",
    "espeak-ru": "Здравствуйте",
    "espeak-sk": "Ďakujem",
    "espeak-sl": "Dobrodošli",
    "espeak-sq": "Mirëdita",
    "espeak-sr": "Здраво",
    "espeak-sv": "Välkommen",
    "espeak-tr": "Günaydın",
    "espeak-uk": "Ласкаво",
    "espeak-vi": "Xin chào",
    "espeak-yue": "你好",
    "espeak-zh-cn": "你好",
}


def test_voices_are_listed_without_the_library():
    voices = EspeakBackend().voices()
    assert [voice.id for voice in voices] == list(SAMPLES)
    assert all(voice.id == f"espeak-{voice.languages[0].lower()}" for voice in voices)
    assert "eSpeak: English (United States)" in [voice.description for voice in voices]
    offered = {voice.languages[0].partition("-")[0] for voice in voices}
    assert offered >= {"zh", "en", "ja", "ko", "de", "fr", "ru", "pt", "es", "it"}


@pytest.mark.parametrize("voice", SAMPLES)
def test_every_voice_speaks_a_word_of_its_language(backend, voice):
    pcm = spoken(backend, SAMPLES[voice], voice)
    assert 0.2 < seconds(pcm) < 1.6  # a word that is spelled out takes longer
    assert loudness(pcm) > 500


def test_voices_and_styles_sound_different(backend):
    styles = backend.voices()[0].styles
    assert set(styles) == {"female", "deep", "croak", "whisper"}
    takes = [spoken(backend, "Radio 25 kilometer", voice) for voice in SAMPLES]
    takes += [spoken(backend, "Radio 25 kilometer", style=style) for style in styles]
    assert len(set(takes)) == len(takes)


@pytest.mark.parametrize(
    ("language", "like"),
    [
        ("de", "espeak-de"),
        ("de-AT", "espeak-de"),
        ("DE_de", "espeak-de"),
        ("en", "espeak-en-gb"),  # the voice asked for speaks it already
        ("en-US", "espeak-en-us"),
        ("en_au", "espeak-en-gb"),
        ("pt", "espeak-pt-pt"),
        ("pt-BR", "espeak-pt-br"),
        ("es-MX", "espeak-es-419"),
        ("es", "espeak-es-es"),
        ("fr-CA", "espeak-fr-fr"),
        ("zh-Hant-TW", "espeak-zh-cn"),
        ("zh-HK", "espeak-yue"),
        ("no", "espeak-nb"),
        ("", "espeak-en-gb"),
    ],
)
def test_language_selects_the_voice(backend, language, like):
    text = "Radio Berlin"
    assert spoken(backend, text, "espeak-en-gb", language=language) == spoken(backend, text, like)


@pytest.mark.parametrize(
    ("wrong", "code", "named"),
    [
        ({"voice": "espeak-tlh"}, "voice-not-found", "espeak-en-us"),
        ({"language": "tlh"}, "language-not-supported", "tlh"),
        ({"style": "angry"}, "voice-not-found", "whisper"),
    ],
)
def test_add_rejects_unknown_voice_style_and_language(backend, wrong, code, named):
    with pytest.raises(JobError, match=named) as refused:
        backend.add(say("Hello.", **wrong))
    assert refused.value.code == code
    assert drain(backend, []) == []


def test_voice_and_style_ignore_case_and_instruct_is_ignored(backend):
    pcm = spoken(backend, "Hello", "Espeak-EN-us", style="WHISPER", instruct="Sing!")
    assert pcm == spoken(backend, "Hello", style="whisper")


@pytest.mark.parametrize(
    ("text", "voice"),
    [("日本", "espeak-zh-cn"), ("ひらがな", "espeak-ja"), ("Дорога", "espeak-ru"), ("שלום", "espeak-he")],
)
def test_script_unknown_to_the_voice_is_spoken_by_another_voice(backend, text, voice):
    assert spoken(backend, text, "espeak-en-us") == spoken(backend, text, voice)
    mixed, parts = spoken(backend, f"Now playing {text}"), (spoken(backend, "Now playing"), spoken(backend, text))
    assert seconds(mixed) < sum(map(seconds, parts)) + 0.1  # without pauses between the parts
