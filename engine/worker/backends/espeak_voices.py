"""The fallback voices: which of eSpeak NG's voices are offered, under which names, and which one a language gets.

The table is static, so that the voices are known before the library is loaded; a test compares it with the data.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ipc.messages import Voice

STYLES: dict[str, str] = {"female": "f2", "deep": "m7", "croak": "croak", "whisper": "whisper"}
"""Style to eSpeak voice variant: the few that stay easy to understand in every language."""

NEIGHBOURS: dict[str, str] = {
    "bs": "hr",
    "en-au": "en-GB",
    "en-ie": "en-GB",
    "en-in": "en-GB",
    "en-nz": "en-GB",
    "en-za": "en-GB",
    "es-ar": "es-419",
    "es-cl": "es-419",
    "es-co": "es-419",
    "es-mx": "es-419",
    "es-pe": "es-419",
    "es-us": "es-419",
    "in": "id",
    "iw": "he",
    "nn": "nb",
    "no": "nb",
    "zh-hk": "yue",
}
"""Languages that a voice of another tag speaks best (Bosnian is Croatian to eSpeak); `in`, `iw`, `no` are old codes."""


@dataclass(frozen=True, slots=True)
class EspeakVoice:
    """One offered voice. `script` is the writing it reads beside Latin, if `espeak_text` knows that writing."""

    espeak: str
    name: str
    language: str
    script: str = ""
    note: str = ""

    @property
    def id(self) -> str:
        return f"espeak-{self.language.lower()}"

    @property
    def message(self) -> Voice:
        """Return the voice as a message for the daemon."""
        note = f" ({self.note})" if self.note else ""
        return Voice(self.id, f"eSpeak: {self.name}{note}", (self.language,), tuple(STYLES))


VOICES: tuple[EspeakVoice, ...] = (
    EspeakVoice("af", "Afrikaans", "af"),
    EspeakVoice("ar", "Arabic", "ar", "Arabic"),
    EspeakVoice("bg", "Bulgarian", "bg", "Cyrillic"),
    EspeakVoice("ca", "Catalan", "ca"),
    EspeakVoice("cs", "Czech", "cs"),
    EspeakVoice("cy", "Welsh", "cy"),
    EspeakVoice("da", "Danish", "da"),
    EspeakVoice("de", "German", "de"),
    EspeakVoice("el", "Greek", "el", "Greek"),
    EspeakVoice("en-us", "English (United States)", "en-US"),
    EspeakVoice("en", "English (Great Britain)", "en-GB"),
    EspeakVoice("es", "Spanish (Spain)", "es-ES"),
    EspeakVoice("es-419", "Spanish (Latin America)", "es-419"),
    EspeakVoice("et", "Estonian", "et"),
    EspeakVoice("eu", "Basque", "eu"),
    EspeakVoice("fa", "Persian", "fa", "Arabic"),
    EspeakVoice("fi", "Finnish", "fi"),
    EspeakVoice("fr", "French (France)", "fr-FR"),
    EspeakVoice("he", "Hebrew", "he", "Hebrew"),
    EspeakVoice("hi", "Hindi", "hi"),
    EspeakVoice("hr", "Croatian", "hr"),
    EspeakVoice("hu", "Hungarian", "hu"),
    EspeakVoice("hy", "Armenian", "hy"),
    EspeakVoice("id", "Indonesian", "id"),
    EspeakVoice("is", "Icelandic", "is"),
    EspeakVoice("it", "Italian", "it"),
    EspeakVoice("ja", "Japanese", "ja", "Kana", note="kana; kanji are read in Chinese"),
    EspeakVoice("ka", "Georgian", "ka"),
    EspeakVoice("ko", "Korean", "ko"),
    EspeakVoice("lt", "Lithuanian", "lt"),
    EspeakVoice("lv", "Latvian", "lv"),
    EspeakVoice("mk", "Macedonian", "mk", "Cyrillic"),
    EspeakVoice("nb", "Norwegian Bokmål", "nb"),
    EspeakVoice("nl", "Dutch", "nl"),
    EspeakVoice("pl", "Polish", "pl"),
    EspeakVoice("pt", "Portuguese (Portugal)", "pt-PT"),
    EspeakVoice("pt-br", "Portuguese (Brazil)", "pt-BR"),
    EspeakVoice("ro", "Romanian", "ro"),
    EspeakVoice("ru", "Russian", "ru", "Cyrillic"),
    EspeakVoice("sk", "Slovak", "sk"),
    EspeakVoice("sl", "Slovenian", "sl"),
    EspeakVoice("sq", "Albanian", "sq"),
    EspeakVoice("sr", "Serbian", "sr", "Cyrillic"),
    EspeakVoice("sv", "Swedish", "sv"),
    EspeakVoice("tr", "Turkish", "tr"),
    EspeakVoice("uk", "Ukrainian", "uk", "Cyrillic"),
    EspeakVoice("vi", "Vietnamese", "vi"),
    EspeakVoice("yue", "Chinese (Cantonese)", "yue", "Han"),
    EspeakVoice("cmn", "Chinese (Mandarin)", "zh-CN", "Han"),
)
"""By language; the first of a language is its default."""


def voice_with_id(voice_id: str) -> EspeakVoice | None:
    """Return the voice with an id, in any letter case; None if unknown."""
    return next((voice for voice in VOICES if voice.id == voice_id.lower()), None)


def voice_for_language(tag: str, preferred: EspeakVoice) -> EspeakVoice | None:
    """Return the voice for a BCP-47 tag, in any case, with `-` or `_`: `preferred` if it speaks it, else the default.

    An unknown tag is shortened from its end (RFC 4647 lookup): `de-AT` gets the voice of `de`.
    """
    wanted = tag.strip().replace("_", "-").lower()
    while wanted:
        language = NEIGHBOURS.get(wanted, wanted).lower()
        for voice in (preferred, *VOICES):
            if language in (voice.language.lower(), voice.language.lower().partition("-")[0]):
                return voice
        wanted = wanted.rpartition("-")[0]
    return None
