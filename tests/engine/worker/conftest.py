"""Fixtures of the tests of the backends."""

import pytest

from engine.worker.backends.espeak import EspeakBackend


@pytest.fixture(scope="module")
def backend() -> EspeakBackend:
    """Return an eSpeak backend with its library loaded."""
    backend = EspeakBackend()
    backend.load()
    return backend
