"""Selects the offered language that fits best: one table for configuration, Wyoming, MQTT and both engines.

Tags are BCP 47 in any case, with `-` or `_`. Old codes, macrolanguages and regions are the IANA registry's:
https://www.iana.org/assignments/language-subtag-registry
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SAME = {
    "cmn": "zh", "no": "nb", "iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro", "scc": "sr", "scr": "hr",
    "tl": "fil", "zh-yue": "yue", "zh-hk": "yue", "zh-mo": "yue", "zh-hant-hk": "yue", "zh-hant-mo": "yue",
}  # fmt: skip
"""Other codes of a language that has one of its own: deprecated, macrolanguages, Cantonese under Chinese."""

_SPEAK_ALIKE = {
    "en-gb": "au bw gh hk ie in jm ke ng nz pk sg tt tz ug za zw",
    "en-us": "ca ph pr",
    "es-419": "ar bo cl co cr cu do ec gt hn mx ni pa pe pr py sv us uy ve",
    "pt-pt": "ao cv gw mo mz st tl",
}
_SPOKEN_AS = {f"{tag[:2]}-{other}": tag for tag, others in _SPEAK_ALIKE.items() for other in others.split()}
"""The region whose speech is nearest."""

_NEIGHBOURS = {
    "nb": ("nn", "da"), "nn": ("nb", "da"), "bs": ("hr", "sr"), "hr": ("bs", "sr"), "sr": ("hr", "bs"),
    "sh": ("sr", "hr", "bs"), "cnr": ("sr", "hr"), "yue": ("zh",), "wuu": ("zh",), "nan": ("zh",), "hak": ("zh",),
    "gsw": ("de",), "nds": ("de",), "lb": ("de",), "sco": ("en",), "gl": ("pt", "es"), "ast": ("es",),
    "oc": ("ca", "fr"), "be": ("ru", "uk"), "fo": ("da",), "zsm": ("id",), "ms": ("id",), "prs": ("fa",),
}  # fmt: skip
"""Languages whose voices can read it if no voice speaks it."""

_WORST = 9
"""Above every distance of a language that fits."""


@dataclass(frozen=True, slots=True)
class _Tag:
    language: str
    region: str = ""
    script: str = ""


def match_language(wanted: str, offered: Sequence[str]) -> str | None:
    """Return the offered tag that fits best, the first of equals; None if not even a neighbouring language fits."""
    best = min(offered, key=lambda tag: _distance(wanted, tag), default=None)
    return None if best is None or _distance(wanted, best) == _WORST else best


def distance(wanted: str, offered: Sequence[str]) -> int | None:
    """Return how far the best of the offered tags is from the wanted one: 0 if equal, None if nothing fits."""
    best = min((_distance(wanted, tag) for tag in offered), default=_WORST)
    return None if best == _WORST else best


def _distance(wanted: str, offered: str) -> int:
    """Return 0 for equal tags, 1 for another script, 2 for the nearest region, 3 for any region, 4… for a neighbour."""
    want, offer = _parsed(wanted), _parsed(offered)
    if want == offer:
        return 0
    if want.language == offer.language:
        if want.region and want.region == offer.region:
            return 1
        nearest = _SPOKEN_AS.get(f"{want.language}-{want.region}")
        return 2 if nearest == f"{offer.language}-{offer.region}" else 3
    neighbours = _NEIGHBOURS.get(want.language, ())
    return 4 + neighbours.index(offer.language) if offer.language in neighbours else _WORST


def _parsed(tag: str) -> _Tag:
    """Return the parts that matter here, the language under one code."""
    text = tag.strip().replace("_", "-").lower()
    language, *rest = _SAME.get(text, text).split("-")
    script = next((part for part in rest if len(part) == 4 and part.isalpha()), "")
    region = next((part for part in rest if (len(part) == 2 and part.isalpha()) or part.isdecimal()), "")
    return _Tag(_SAME.get(language, language), region, script)
