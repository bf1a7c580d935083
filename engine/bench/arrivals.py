"""Requests that come by chance, the same ones for the same seed: Poisson arrivals of texts of mixed lengths."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from random import Random

SHORTEST, LONGEST = 12, 200
CHARACTERS_PER_S = 15
FRAMES_PER_S = 12.5
STOCK = (
    "the washing machine has finished and it will rain at six so please close the window in the kitchen before you "
    "leave your tea is ready dinner starts soon somebody is at the front door two lights are still on upstairs"
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A text and its arrival time in seconds from the start."""

    at_s: float
    text: str

    @property
    def frames(self) -> int:
        """How long its speech is, for a model that does not know when to end."""
        return ceil(len(self.text) / CHARACTERS_PER_S * FRAMES_PER_S)


def poisson(rate: float, seconds: float, seed: int) -> list[Arrival]:
    """`rate` requests a second on average, those of the first `seconds` seconds, in order."""
    chance, at_s, found = Random(seed), 0.0, list[Arrival]()
    while (at_s := at_s + chance.expovariate(rate)) < seconds:
        found.append(Arrival(at_s, sentence(chance.randint(SHORTEST, LONGEST), chance)))
    return found


def sentence(length: int, chance: Random) -> str:
    """Words of exactly `length` characters, full stop included."""
    words = chance.choices(STOCK.split(), k=length)
    return f"{' '.join(words)[: length - 2].capitalize()}s."
