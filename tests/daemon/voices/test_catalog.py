import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ipc.messages import Voice
from qwentts_daemon.config.schema import Voices
from qwentts_daemon.errors import Code, ConfigError, SpeechError
from qwentts_daemon.voices.catalog import VoiceCatalog, best_voice
from qwentts_daemon.voices.request import SynthesisRequest

RYAN = Voice("ryan", "Ryan", ("en-US", "de-DE", "zh-CN"), follows_instruct=True)
ANNA = Voice("anna", "Anna", ("de-DE",), styles=("soft",))
CONFIG = Voices(
    default="ryan",
    pin_languages=("de-DE",),
    styles={"whisper": "Whisper."},
    aliases={"kitchen": "ryan+whisper@de-DE", "boss": "anna", "Big_Boss": "anna"},
)
catalog = VoiceCatalog([ANNA, RYAN], CONFIG)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, SynthesisRequest("ryan")),
        ({"name": ""}, SynthesisRequest("ryan")),
        ({"name": "anna"}, SynthesisRequest("anna")),
        ({"name": "ryan@de-DE"}, SynthesisRequest("ryan", "de-DE")),
        ({"name": "ryan@de"}, SynthesisRequest("ryan", "de-DE")),
        ({"name": "ryan", "language": "zh_cn"}, SynthesisRequest("ryan", "zh-CN")),
        ({"name": "ryan+whisper"}, SynthesisRequest("ryan", None, "whisper", "Whisper.")),
        ({"name": "ryan+whisper@de-DE"}, SynthesisRequest("ryan", "de-DE", "whisper", "Whisper.")),
        ({"name": "ryan@de-DE+whisper"}, SynthesisRequest("ryan", "de-DE", "whisper", "Whisper.")),
        ({"name": "ryan", "speaker": "whisper"}, SynthesisRequest("ryan", None, "whisper", "Whisper.")),
        ({"name": "anna", "speaker": "soft"}, SynthesisRequest("anna", None, "soft")),
        ({"name": "kitchen"}, SynthesisRequest("ryan", "de-DE", "whisper", "Whisper.")),
        ({"name": "boss", "speaker": "soft"}, SynthesisRequest("anna", None, "soft")),
        ({"language": "de"}, SynthesisRequest("ryan", "de-DE")),
        ({"language": "zh"}, SynthesisRequest("ryan", "zh-CN")),
        ({"name": "RYAN@de-de"}, SynthesisRequest("ryan", "de-DE")),
        ({"name": "Kitchen"}, SynthesisRequest("ryan", "de-DE", "whisper", "Whisper.")),
        ({"name": " big boss "}, SynthesisRequest("anna")),
        ({"name": "Anna+Soft"}, SynthesisRequest("anna", None, "soft")),
        ({"name": "anna", "speaker": "SOFT"}, SynthesisRequest("anna", None, "soft")),
    ],
)
def test_resolve_splits_id_into_voice_language_and_style(asked, expected):
    assert catalog.resolve(**asked) == expected


@pytest.mark.parametrize(
    ("asked", "code", "hint"),
    [
        ({"name": "rian"}, Code.VOICE_NOT_FOUND, "did you mean ryan"),
        ({"name": "ryann"}, Code.VOICE_NOT_FOUND, "did you mean ryan"),
        ({"name": "ryan+wisper"}, Code.VOICE_NOT_FOUND, "did you mean whisper"),
        ({"name": "anna", "speaker": "whisper"}, Code.VOICE_NOT_FOUND, "does not have the style"),
        ({"name": "ryan@fr"}, Code.LANGUAGE_NOT_SUPPORTED, "it speaks en-US, de-DE, zh-CN"),
        ({"language": "fr"}, Code.LANGUAGE_NOT_SUPPORTED, "no voice speaks"),
    ],
)
def test_resolve_rejects_unknown_name_with_suggestion(asked, code, hint):
    with pytest.raises(SpeechError, match=hint) as refused:
        catalog.resolve(**asked)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "config", [Voices(pin_languages=("de-DE", "de-DE")), Voices(aliases={"ryan": "ryan@de-DE", "anna": "ryan"})]
)
def test_catalog_lists_unique_ids_that_resolve_to_their_language(config):
    made = VoiceCatalog([ANNA, RYAN], config)
    listed = {entry.id: entry for entry in made.entries}
    assert len(listed) == len(made.entries)
    assert all(made.resolve(name).language in (None, *entry.languages) for name, entry in listed.items())


def test_catalog_lists_default_first_then_variants_and_aliases():
    assert [entry.id for entry in catalog.entries] == [
        "ryan", "anna", "ryan@de-DE", "ryan+whisper", "kitchen", "boss", "Big_Boss",
    ]  # fmt: skip


def test_resolve_accepts_every_listed_id_style_and_language():
    for entry in catalog.entries:
        for style in (None, *entry.styles):
            catalog.resolve(entry.id, speaker=style)
        for language in entry.languages:
            assert catalog.resolve(entry.id, language).language == language


def test_resolve_uses_configured_language_only_where_voice_speaks_it():
    voices = VoiceCatalog([ANNA, RYAN], Voices(language="zh-CN"))
    assert voices.resolve() == SynthesisRequest("ryan", "zh-CN")
    assert voices.resolve("anna") == SynthesisRequest("anna")


@pytest.mark.parametrize(
    "config", [Voices(default="rian"), Voices(aliases={"x": "ryan+loud"}), Voices(default="ryan@fr")]
)
def test_catalog_rejects_unknown_names_in_configuration(config):
    with pytest.raises(ConfigError, match=r"voices\.(default|aliases\.x): "):
        VoiceCatalog([RYAN], config)


@pytest.mark.parametrize("default", ["anna", "anna+soft", "ryan+hoarse"])
def test_catalog_awaits_configured_voice_that_does_not_exist_yet(default):
    config = Voices(default=default, aliases={"boss": "anna", "kitchen": "ryan"}, styles={"soft": "Softly."})
    before = VoiceCatalog([RYAN], config, more_may_come=True)
    assert before.default == "ryan"
    assert [problem.partition(": no voice")[0].partition(": voice")[0] for problem in before.awaited] == [
        "voices.default", "voices.aliases.boss",
    ]  # fmt: skip
    assert [entry.id for entry in before.entries] == ["ryan", "ryan+soft", "kitchen"]
    with pytest.raises(SpeechError, match="no voice 'anna'"):
        before.resolve("boss")
    hoarse = Voice("ryan", "Ryan", ("en-US",), styles=("hoarse",))
    after = VoiceCatalog([hoarse, ANNA], config, more_may_come=True)
    assert (after.default, after.awaited, after.resolve("boss").voice) == (default, [], "anna")


@pytest.mark.parametrize(
    ("asked", "voice"),
    [
        ({}, "amy"),
        ({"name": "ryan"}, "amy"),
        ({"name": "ryan@de-DE", "speaker": "whisper"}, "anna"),
        ({"name": "ryan", "language": "de"}, "anna"),
        ({"name": "kitchen"}, "anna"),
        ({"name": "anna", "speaker": "whisper"}, "anna"),
        ({"name": "anna+soft"}, "anna"),
    ],
)
def test_fallback_catalog_resolves_every_name(asked, voice):
    config = Voices(default="ryan", aliases={"kitchen": "ryan+whisper@de-DE"})
    embedded = VoiceCatalog([ANNA, Voice("amy", "Amy", ("en-GB",))], config, stands_in=True)
    assert embedded.default == "amy"
    assert len(embedded.awaited) == 2
    request = embedded.resolve(**asked)
    assert (request.voice, request.style) == (voice, "soft" if "anna+soft" in asked.values() else None)
    assert embedded.instructed(request, "Slowly.") == request


def test_fallback_catalog_rejects_unsupported_language():
    with pytest.raises(SpeechError, match="no voice speaks 'fr'"):
        VoiceCatalog([ANNA], Voices(), stands_in=True).resolve(language="fr")


def test_catalog_rejects_default_with_language_its_voice_lacks():
    with pytest.raises(ConfigError, match=r"voices\.default: "):
        VoiceCatalog([RYAN], Voices(default="ryan@fr"), more_may_come=True)


def test_best_voice_prefers_native_then_regional_then_any_match():
    voices = [
        Voice("vivian", "V", ("zh", "en", "de")), Voice("aiden", "A", ("en-US", "zh")),
        Voice("ryan", "R", ("en", "de-AT")),
    ]  # fmt: skip
    found = {tag: best_voice(voices, tag).id for tag in ("en", "en-US", "en-GB", "de", "de-AT", "de-CH", "ja")}
    assert found == {
        "en": "ryan", "en-US": "aiden", "en-GB": "aiden", "de": "vivian", "de-AT": "ryan", "de-CH": "vivian",
        "ja": "vivian",
    }  # fmt: skip


def test_resolve_language_overrides_pin_of_default_but_not_of_name():
    voices = VoiceCatalog([RYAN], Voices(default="ryan@de-DE"))
    assert voices.resolve() == SynthesisRequest("ryan", "de-DE")
    assert voices.resolve(language="en-US") == SynthesisRequest("ryan", "en-US")
    assert voices.resolve("ryan@de-DE", language="en-US") == SynthesisRequest("ryan", "de-DE")


@pytest.mark.parametrize("config", [Voices(language="sv-SE"), Voices(pin_languages=("de-DE", "sv"))])
def test_catalog_rejects_configured_language_without_voice(config):
    with pytest.raises(ConfigError, match=r"voices\.(language|pin_languages): no voice speaks sv"):
        VoiceCatalog([RYAN, ANNA], config)


def test_catalog_rejects_empty_list_of_voices():
    with pytest.raises(ConfigError):
        VoiceCatalog([], Voices())


@given(st.text(max_size=20), st.none() | st.text(max_size=10), st.none() | st.text(max_size=10))
def test_resolve_returns_or_raises_speech_error_for_any_input(name, language, speaker):
    try:
        catalog.resolve(name, language, speaker)
    except SpeechError as error:
        assert error.code in (Code.VOICE_NOT_FOUND, Code.LANGUAGE_NOT_SUPPORTED)


def test_resolve_prefers_exact_spelling_of_names_that_differ_in_case():
    voices = VoiceCatalog([Voice("anna", "a", ("en",)), Voice("Anna", "A", ("en",))], Voices(aliases={"ANNA": "anna"}))
    assert [voices.resolve(name).voice for name in ("anna", "Anna", "ANNA", "aNNA")] == ["anna", "Anna", "anna", "anna"]
