"""Waits until a running daemon lists a new voice, and speaks a sentence with it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from ..wyoming import client

FOUND_WITHIN_S = 300.0
"""A daemon reads its folder every second, but loading a model on its first voice takes minutes on a slow disk."""
RETRY_S = 0.5
SENTENCES = {
    "en": "Good evening. This is my new voice, and I hope that you like it.",
    "de": "Guten Abend. Das ist meine neue Stimme, und ich hoffe, dass sie gefällt.",
    "es": "Buenas tardes. Esta es mi nueva voz, y espero que te guste.",
    "fr": "Bonsoir. Voici ma nouvelle voix, et j'espère qu'elle vous plaît.",
    "it": "Buonasera. Questa è la mia nuova voce, e spero che ti piaccia.",
    "pt": "Boa noite. Esta é a minha nova voz, e espero que goste dela.",
    "ru": "Добрый вечер. Это мой новый голос, надеюсь, он вам понравится.",
    "ja": "こんばんは。これが私の新しい声です。気に入っていただけるとうれしいです。",
    "ko": "안녕하세요. 이것은 제 새 목소리입니다. 마음에 드셨으면 좋겠습니다.",
    "zh": "晚上好。这是我的新声音，希望你喜欢。",
}


async def appears(request: client.ClientOptions, name: str) -> bool:
    """Wait until the daemon lists the voice; return whether it does. Raises StartError if a daemon does not answer."""
    until_s = time.monotonic() + FOUND_WITHIN_S
    while name not in [voice.name for voice in await client.voices(request)]:
        if time.monotonic() > until_s:
            return False
        await asyncio.sleep(RETRY_S)  # poll: the protocol does not announce changes of the voices
    return True


async def speak(request: client.ClientOptions, name: str, language: str | None, output: Path) -> client.ClientResult:
    """Speak a sentence with the new voice and write it to `output`. Raises SpeechError and StartError."""
    tag = (language or "en").replace("_", "-").split("-")[0].lower()
    with client.sink(output, play=False) as write:
        text = client.whole(SENTENCES.get(tag, SENTENCES["en"]))
        return await client.say(replace(request, voice=name), text, write)
