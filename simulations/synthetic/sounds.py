"""Jingles: one second whose register tells the pitch, whose overtones tell the timbre and whose pulse tells the mood.

Legend: S samples at 16 kHz.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import soundfile

SAMPLE_RATE = 16_000
SAMPLES = 16_000
REGISTERS: dict[str, float] = {"deep": 82.0, "low": 165.0, "middle": 330.0, "high": 660.0, "shrill": 1320.0}
"""Frequency of the lowest note, in hertz: one octave apart."""
PULSES: dict[str, int] = {"calm": 1, "cheerful": 3, "busy": 6, "frantic": 12}
"""Notes per second."""
STEPS: tuple[int, ...] = (0, 2, 4, 7, 9)
"""A pentatonic scale, in semitones: every tune is pleasant and stays inside its register."""
OVERTONES: dict[str, tuple[float, ...]] = {
    "flute": (1.0, 0.12, 0.03),
    "clarinet": (1.0, 0.0, 0.6, 0.0, 0.4, 0.0, 0.25),
    "harp": (1.0, 0.5, 0.3, 0.15),
    "brass": (0.7, 0.9, 1.0, 0.9, 0.7, 0.5, 0.35, 0.25),
}
"""Loudness of the harmonics, from the fundamental up."""
ATTACK_SECONDS: dict[str, float] = {"flute": 0.03, "clarinet": 0.015, "harp": 0.002, "brass": 0.02}
PAUSE_SECONDS, RELEASE_SECONDS = 0.02, 0.012
"""Silence and fading at the end of each note, the same for all: the more notes, the more of the second is silent."""

Wave = npt.NDArray[np.float64]


def play_item(values: Mapping[str, str], rng: np.random.Generator) -> bytes:
    """FLAC bytes (mono, 16 bit) of an item's jingle.

    Args:
        values: the item's value of every attribute, by attribute name.
        rng: chooses the tune, the loudness and a faint hiss.
    """
    notes = PULSES[values["mood"]]
    edges = np.linspace(0, SAMPLES, notes + 1).astype(int)
    steps = rng.choice(STEPS, size=notes)
    wave_S = np.concatenate(
        [
            _note(REGISTERS[values["pitch"]] * 2.0 ** (step / 12.0), values["timbre"], int(stop - start))
            for step, start, stop in zip(steps, edges[:-1], edges[1:], strict=True)
        ]
    )
    wave_S *= rng.uniform(0.55, 0.85) / np.abs(wave_S).max()
    wave_S += 0.002 * rng.standard_normal(SAMPLES)
    stream = io.BytesIO()
    soundfile.write(stream, np.round(wave_S * 32_767).astype(np.int16), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def _note(frequency: float, timbre: str, samples: int) -> Wave:
    time_S = np.arange(samples) / SAMPLE_RATE
    tone_S = np.zeros(samples)
    for harmonic, loudness in enumerate(OVERTONES[timbre], start=1):
        if harmonic * frequency < SAMPLE_RATE / 2:
            tone_S += loudness * np.sin(2.0 * np.pi * harmonic * frequency * time_S)
    end = samples / SAMPLE_RATE - PAUSE_SECONDS
    fade_in_S = np.minimum(1.0, time_S / ATTACK_SECONDS[timbre])
    fade_out_S = np.clip((end - time_S) / RELEASE_SECONDS, 0.0, 1.0)
    decay_S = np.exp(-time_S / 0.12) if timbre == "harp" else np.ones(samples)
    return np.asarray(tone_S * fade_in_S * fade_out_S * decay_S)
