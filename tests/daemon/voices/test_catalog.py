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
catalogue = VoiceCatalog([ANNA, RYAN], CONFIG)


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
def test_a_name_says_voice_language_and_style(asked, expected):
    assert catalogue.resolve(**asked) == expected


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
def test_what_is_not_there_is_refused_with_the_nearest(asked, code, hint):
    with pytest.raises(SpeechError, match=hint) as refused:
        catalogue.resolve(**asked)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "config", [Voices(pin_languages=("de-DE", "de-DE")), Voices(aliases={"ryan": "ryan@de-DE", "anna": "ryan"})]
)
def test_no_name_is_listed_twice_and_each_is_what_it_speaks(config):
    made = VoiceCatalog([ANNA, RYAN], config)
    listed = {entry.id: entry for entry in made.entries}
    assert len(listed) == len(made.entries)
    assert all(made.resolve(name).language in (None, *entry.languages) for name, entry in listed.items())


def test_the_list_has_the_default_first_pinned_languages_styles_and_aliases():
    assert [entry.id for entry in catalogue.entries] == [
        "ryan", "anna", "ryan@de-DE", "ryan+whisper", "kitchen", "boss", "Big_Boss",
    ]  # fmt: skip


def test_every_listed_id_resolves_and_speaks_its_languages():
    for entry in catalogue.entries:
        for style in (None, *entry.styles):
            catalogue.resolve(entry.id, speaker=style)
        for language in entry.languages:
            assert catalogue.resolve(entry.id, language).language == language


def test_the_configured_language_is_a_wish_not_a_demand():
    voices = VoiceCatalog([ANNA, RYAN], Voices(language="zh-CN"))
    assert voices.resolve() == SynthesisRequest("ryan", "zh-CN")
    assert voices.resolve("anna") == SynthesisRequest("anna")


@pytest.mark.parametrize(
    "config", [Voices(default="rian"), Voices(aliases={"x": "ryan+loud"}), Voices(default="ryan@fr")]
)
def test_wrong_names_in_the_configuration_stop_the_start(config):
    with pytest.raises(ConfigError, match=r"voices\.(default|aliases\.x): "):
        VoiceCatalog([RYAN], config)


@pytest.mark.parametrize("default", ["anna", "anna+soft", "ryan+hoarse"])
def test_a_name_that_is_nobodys_yet_waits_for_its_voice(default):
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
def test_voices_that_stand_in_speak_for_every_name(asked, voice):
    config = Voices(default="ryan", aliases={"kitchen": "ryan+whisper@de-DE"})
    embedded = VoiceCatalog([ANNA, Voice("amy", "Amy", ("en-GB",))], config, stands_in=True)
    assert embedded.default == "amy"
    assert len(embedded.awaited) == 2
    request = embedded.resolve(**asked)
    assert (request.voice, request.style) == (voice, "soft" if "anna+soft" in asked.values() else None)
    assert embedded.instructed(request, "Slowly.") == request


def test_a_language_that_nobody_speaks_is_refused_by_those_who_stand_in_too():
    with pytest.raises(SpeechError, match="no voice speaks 'fr'"):
        VoiceCatalog([ANNA], Voices(), stands_in=True).resolve(language="fr")


def test_a_language_that_the_default_does_not_speak_is_not_waited_for():
    with pytest.raises(ConfigError, match=r"voices\.default: "):
        VoiceCatalog([RYAN], Voices(default="ryan@fr"), more_may_come=True)


def test_a_mother_tongue_goes_before_a_region_and_that_before_any_knowledge():
    voices = [
        Voice("vivian", "V", ("zh", "en", "de")), Voice("aiden", "A", ("en-US", "zh")),
        Voice("ryan", "R", ("en", "de-AT")),
    ]  # fmt: skip
    found = {tag: best_voice(voices, tag).id for tag in ("en", "en-US", "en-GB", "de", "de-AT", "de-CH", "ja")}
    assert found == {
        "en": "ryan", "en-US": "aiden", "en-GB": "aiden", "de": "vivian", "de-AT": "ryan", "de-CH": "vivian",
        "ja": "vivian",
    }  # fmt: skip


def test_a_language_asked_for_beats_the_pin_of_a_default_but_not_of_a_name():
    voices = VoiceCatalog([RYAN], Voices(default="ryan@de-DE"))
    assert voices.resolve() == SynthesisRequest("ryan", "de-DE")
    assert voices.resolve(language="en-US") == SynthesisRequest("ryan", "en-US")
    assert voices.resolve("ryan@de-DE", language="en-US") == SynthesisRequest("ryan", "de-DE")


@pytest.mark.parametrize("config", [Voices(language="sv-SE"), Voices(pin_languages=("de-DE", "sv"))])
def test_a_language_that_nobody_speaks_stops_the_start(config):
    with pytest.raises(ConfigError, match=r"voices\.(language|pin_languages): no voice speaks sv"):
        VoiceCatalog([RYAN, ANNA], config)


def test_no_voices_is_refused():
    with pytest.raises(ConfigError):
        VoiceCatalog([], Voices())


@given(st.text(max_size=20), st.none() | st.text(max_size=10), st.none() | st.text(max_size=10))
def test_any_words_resolve_or_are_refused_with_a_code(name, language, speaker):
    try:
        catalogue.resolve(name, language, speaker)
    except SpeechError as error:
        assert error.code in (Code.VOICE_NOT_FOUND, Code.LANGUAGE_NOT_SUPPORTED)


def test_catalog_prefers_the_exact_spelling_of_names_that_differ_only_in_case():
    voices = VoiceCatalog([Voice("anna", "a", ("en",)), Voice("Anna", "A", ("en",))], Voices(aliases={"ANNA": "anna"}))
    assert [voices.resolve(name).voice for name in ("anna", "Anna", "ANNA", "aNNA")] == ["anna", "Anna", "anna", "anna"]
