"""What the tests of the embedded voice ask of a backend, and how they look at what it made."""

import array
import math
import subprocess
import sys
from pathlib import Path

from engine.ipc.messages import Chunk, Synthesize

ROOT = Path(__file__).parents[3]
RATE = 22_050
LIGHTS = "The lights in the living room are on, and the front door is locked. Good night!"


def say(text, voice="espeak-en-us", job=1, **more):
    return Synthesize(job, voice, text, **more)


def drain(backend, events):
    while backend.step(events.append):
        pass
    return events


def pcm_of(events, job=1):
    return b"".join(event.pcm for event in events if isinstance(event, Chunk) and event.job == job)


def spoken(backend, text, voice="espeak-en-us", **more):
    backend.add(say(text, voice, **more))
    return pcm_of(drain(backend, []))


def seconds(pcm):
    return len(pcm) / 2 / RATE


def loudness(pcm):
    samples = array.array("h", pcm)
    return math.sqrt(sum(sample * sample for sample in samples) / len(samples))


def python(code, *arguments):
    """The output of a fresh process: the library's state belongs to the process."""
    finished = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()
