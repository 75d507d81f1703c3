"""Sound to vectors without any weight: mean and spread over time of a log-mel spectrogram (Davis & Mermelstein 1980).

Promises:
1. Appended silence does not change the vector: frames start at fixed times from the beginning, the last is filled
   up with zeros, and frames `FLOOR_DB` below the loudest are left out of both statistics.
2. Loudness does not change it: levels are relative to the loudest band of the file, and cut `RANGE_DB` below it,
   where lossy formats differ from each other by what nobody hears.
3. Wav, flac, ogg and mp3 are read, mixed to one channel and resampled to 16 kHz; at most `MAX_SECONDS` of them.

Shapes: L samples, F frames, S samples of a frame, K frequencies, D mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.fft import rfft
from scipy.signal import get_window, resample_poly

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.interface import OWN_LICENCE, Mask, Recipe, Vectors, recipe_digest
from mmrec_model.errors import EncoderError

RATE = 16_000
MAX_SECONDS = 120
MAX_CHANNELS = 8
BANDS = 64
FLOOR_DB = 60.0
RANGE_DB = 60.0
_FRAME = 1024
_STEP = 320
_LOWEST_HZ = 40.0
_SILENT_POWER = 1e-10

FloatArray = npt.NDArray[np.float32]


class AudioEncoder:
    """Log-mel statistics: 64 means, then 64 standard deviations, in units of 10 decibels."""

    modality: Modality = "audio"
    name = "log-mel-statistics"
    dim = 2 * BANDS
    note = "no weights: mean and spread of a 64-band log-mel spectrogram, carries timbre, no words or melody"
    licence = OWN_LICENCE

    def __init__(self) -> None:
        self._window_S = np.asarray(get_window("hann", _FRAME), dtype=np.float32)
        self._mel_KD = mel_filterbank()
        self.recipe: Recipe = {
            "kind": "audio", "rate": RATE, "seconds": MAX_SECONDS, "frame": _FRAME, "step": _STEP, "window": "hann",
            "bands": BANDS, "lowest_hz": _LOWEST_HZ, "floor_db": FLOOR_DB, "range_db": RANGE_DB,
            "silent_power": _SILENT_POWER, "pool": "mean+std", "version": 1,
        }  # fmt: skip
        self.digest = recipe_digest(self.recipe)

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Sound files to float32 [n, 128] and bool [n]; pure silence counts as empty. See `Encoder.encode`."""
        vectors = np.zeros((len(inputs), self.dim), dtype=np.float32)
        ok = np.zeros(len(inputs), dtype=bool)
        for row, path in enumerate(inputs):
            sound_L = read_sound(Path(path))
            vector_D = None if sound_L is None else self.encode_sound(sound_L)
            if vector_D is not None:
                vectors[row], ok[row] = vector_D, True
        return vectors, ok

    def encode_sound(self, sound_L: FloatArray) -> FloatArray | None:
        """One channel at 16 kHz to [128], or None if it is silent throughout."""
        frames_FS = np.lib.stride_tricks.sliding_window_view(np.pad(sound_L, (0, _FRAME)), _FRAME)[::_STEP]
        power_F = np.mean(np.square(frames_FS), axis=1)
        loudest = float(power_F.max())
        if loudest < _SILENT_POWER:
            return None
        heard_FS = frames_FS[power_F >= loudest * 10.0 ** (-FLOOR_DB / 10.0)]
        mel_FD = np.square(np.abs(rfft(heard_FS * self._window_S, axis=1))) @ self._mel_KD
        quietest = float(mel_FD.max()) * 10.0 ** (-RANGE_DB / 10.0)
        level_FD = np.log10(np.maximum(mel_FD, quietest) / quietest)
        return np.concatenate([level_FD.mean(axis=0), level_FD.std(axis=0)]).astype(np.float32)


def load_audio_encoder(config: EncoderConfig) -> AudioEncoder:
    """The weights-free encoder.

    Raises:
        EncoderError: any source but `embedded`.
    """
    if config.source != "embedded":
        raise EncoderError(
            f"audio source {config.source!r} is not supported, the only one is 'embedded'",
            remedy="Set source to 'embedded' (log-mel statistics)",
        )
    return AudioEncoder()


def read_sound(path: Path) -> FloatArray | None:
    """The first `MAX_SECONDS` of a file as one channel at 16 kHz, or None if it is unreadable or has no sample."""
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = int(file.samplerate), int(file.channels)
            if not (1_000 <= rate <= 192_000 and 1 <= channels <= MAX_CHANNELS):
                return None
            samples_LC = file.read(MAX_SECONDS * rate, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, TypeError, MemoryError):
        return None
    if not len(samples_LC) or not np.isfinite(samples_LC).all():
        return None
    return resample(samples_LC.mean(axis=1), rate)


def resample(sound_L: FloatArray, rate: int) -> FloatArray:
    """Polyphase resampling from `rate` hertz to 16 kHz; a tenth of a second is added for the filter to ring out."""
    if rate == RATE:
        return sound_L
    shared = gcd(rate, RATE)
    ringing_L = np.pad(sound_L, (0, rate // 10))
    return np.asarray(resample_poly(ringing_L, RATE // shared, rate // shared), dtype=np.float32)


def mel_filterbank() -> FloatArray:
    """Triangular filters [K, 64], evenly spaced on the HTK mel scale from 40 Hz to 8 kHz, each with peak 1."""
    edges_mel = np.linspace(_to_mel(_LOWEST_HZ), _to_mel(RATE / 2), BANDS + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, RATE / 2, _FRAME // 2 + 1)[:, None]
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _to_mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))
