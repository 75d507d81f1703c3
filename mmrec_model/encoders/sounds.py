"""Sound files to one channel at a fixed rate, and to log-mel levels (Davis & Mermelstein 1980); needs no torch.

Promises:
1. Wav, flac, ogg and mp3 are read, mixed to one channel and resampled; at most `MAX_SECONDS` of them.
2. Loudness does not change log-mel levels: they are relative to the loudest band of the file, and cut `RANGE_DB` below
   it, where lossy formats differ from each other by what nobody hears.
3. Appended silence changes nothing: frames start at fixed times from the beginning, the last is filled up with zeros,
   and what follows the last frame within `FLOOR_DB` of the loudest is left out.

Shapes: L samples, F frames, S samples of a frame, K frequencies, D mel bands.
"""

from __future__ import annotations

from functools import cache
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.fft import rfft
from scipy.signal import get_window, resample_poly

from mmrec_model.canonical import JsonValue

RATE = 16_000
MAX_SECONDS = 120
MAX_CHANNELS = 8
BANDS = 64
FLOOR_DB = 60.0
RANGE_DB = 60.0
FRAME = 1024
STEP = 320
LOWEST_HZ = 40.0
SILENT_POWER = 1e-10
LOG_MEL_RECIPE: dict[str, JsonValue] = {
    "rate": RATE, "seconds": MAX_SECONDS, "frame": FRAME, "step": STEP, "window": "hann", "bands": BANDS,
    "lowest_hz": LOWEST_HZ, "floor_db": FLOOR_DB, "range_db": RANGE_DB, "silent_power": SILENT_POWER,
}  # fmt: skip
"""Everything that the levels depend on apart from the sound, for the digests of encoders."""

FloatArray = npt.NDArray[np.float32]


def read_sound(path: Path, rate: int = RATE) -> FloatArray | None:
    """The first `MAX_SECONDS` of a file as one channel at `rate`, or None if it is unreadable or has no sample."""
    try:
        with soundfile.SoundFile(path) as file:
            own_rate, channels = int(file.samplerate), int(file.channels)
            if not (1_000 <= own_rate <= 192_000 and 1 <= channels <= MAX_CHANNELS):
                return None
            samples_LC = file.read(MAX_SECONDS * own_rate, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, TypeError, MemoryError):
        return None
    if not len(samples_LC) or not np.isfinite(samples_LC).all():
        return None
    return resample(samples_LC.mean(axis=1), own_rate, rate)


def resample(sound_L: FloatArray, rate: int, wanted: int = RATE) -> FloatArray:
    """Polyphase resampling from `rate` to `wanted` hertz; a tenth of a second is added for the filter to ring out."""
    if rate == wanted:
        return sound_L
    shared = gcd(rate, wanted)
    ringing_L = np.pad(sound_L, (0, rate // 10))
    return np.asarray(resample_poly(ringing_L, wanted // shared, rate // shared), dtype=np.float32)


def heard_log_mel(sound_L: FloatArray) -> FloatArray | None:
    """Levels [F, 64] of the frames that are heard, in units of 10 decibels; None if the sound is silent throughout."""
    frames_FS, heard_F = _frames(sound_L)
    return _levels(frames_FS[heard_F]) if heard_F.any() else None


def log_mel(sound_L: FloatArray) -> FloatArray | None:
    """Levels [F, 64] from the beginning to the last frame that is heard, or None if the sound is silent throughout.

    A level lies in 0..6, in units of 10 decibels above the cut; frame f starts at f/50 of a second.
    """
    frames_FS, heard_F = _frames(sound_L)
    return _levels(frames_FS[: 1 + int(np.flatnonzero(heard_F)[-1])]) if heard_F.any() else None


def without_tail(sound_L: FloatArray, rate: int) -> FloatArray | None:
    """The sound up to the end of its last frame that is heard, or None if it is silent throughout."""
    frame, step = FRAME * rate // RATE, STEP * rate // RATE
    heard_F = _heard(_windows(sound_L, frame, step))
    return sound_L[: step * int(np.flatnonzero(heard_F)[-1]) + frame] if heard_F.any() else None


def _windows(sound_L: FloatArray, frame: int, step: int) -> FloatArray:
    return np.lib.stride_tricks.sliding_window_view(np.pad(sound_L, (0, frame)), frame)[::step]


def _heard(frames_FS: FloatArray) -> npt.NDArray[np.bool_]:
    power_F = np.mean(np.square(frames_FS), axis=1)
    loudest = float(power_F.max())
    if loudest < SILENT_POWER:
        return np.zeros(len(power_F), dtype=bool)
    return np.asarray(power_F >= loudest * 10.0 ** (-FLOOR_DB / 10.0))


def _frames(sound_L: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    frames_FS = _windows(sound_L, FRAME, STEP)
    return frames_FS, _heard(frames_FS)


def _levels(frames_FS: FloatArray) -> FloatArray:
    window_S, mel_KD = _window(), mel_filterbank()
    mel_FD = np.square(np.abs(rfft(frames_FS * window_S, axis=1))) @ mel_KD
    quietest = float(mel_FD.max()) * 10.0 ** (-RANGE_DB / 10.0)
    return np.asarray(np.log10(np.maximum(mel_FD, quietest) / quietest), dtype=np.float32)


@cache
def _window() -> FloatArray:
    return np.asarray(get_window("hann", FRAME), dtype=np.float32)


@cache
def mel_filterbank() -> FloatArray:
    """Triangular filters [K, 64], evenly spaced on the HTK mel scale from 40 Hz to 8 kHz, each with peak 1."""
    edges_mel = np.linspace(_to_mel(LOWEST_HZ), _to_mel(RATE / 2), BANDS + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, RATE / 2, FRAME // 2 + 1)[:, None]
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _to_mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))
