"""What is cut from the beginning of a job's audio, and how a runaway's end sounds."""

from __future__ import annotations

import torch

from engine.scheduler.edges import BEFORE_ONSET, SILENCE, fade_out, trim_silence


def test_without_silence_cuts_up_to_10_ms_before_onset() -> None:
    wave = torch.cat((torch.full((5000,), 0.9 * SILENCE), torch.ones(100)))
    assert torch.equal(trim_silence(wave, 9600), wave[5000 - BEFORE_ONSET :])
    assert torch.equal(trim_silence(wave, 300), wave[300:])
    assert torch.equal(trim_silence(wave, 0), wave)


def test_without_silence_keeps_wave_that_starts_at_once() -> None:
    wave = torch.ones(500)
    assert torch.equal(trim_silence(wave, 9600), wave)


def test_without_silence_cuts_silent_wave_within_the_limit() -> None:
    assert len(trim_silence(torch.zeros(1920), 9600)) == 0
    assert len(trim_silence(torch.zeros(1920), 1000)) == 920
    assert len(trim_silence(torch.empty(0), 9600)) == 0


def test_faded_changes_only_the_end_of_the_wave() -> None:
    wave = fade_out(torch.ones(100), 10)
    assert torch.equal(wave[:90], torch.ones(90))
    assert wave[-1].abs() < 1e-6
    assert (wave[90:].diff() < 0).all()
    assert fade_out(torch.ones(3), 10).shape == (3,)
