"""Laws of the sound encoder: silence, loudness, rate and container do not matter, timbre does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.audio import AudioEncoder, _statistics
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.encoders.sounds import RATE, heard_log_mel, mel_filterbank, read_sound, resample
from mmrec_model.errors import EncoderError

ENCODER = AudioEncoder(EncoderConfig(modality="audio"))


def tone(hertz: float, *, seconds: float = 1.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    beat = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
    return (0.3 * beat * (np.sin(2 * np.pi * hertz * time) + 0.5 * np.sin(4 * np.pi * hertz * time)) + noise).astype(
        np.float32
    )


def encode(sound: np.ndarray) -> np.ndarray:
    levels = heard_log_mel(sound)
    assert levels is not None
    return _statistics([levels])


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(0, 3 * RATE), hertz=st.floats(100, 3000), seconds=st.floats(0.05, 1.5))
def test_appended_silence_does_not_change_the_vector(samples: int, hertz: float, seconds: float) -> None:
    sound = tone(hertz, seconds=seconds)
    np.testing.assert_allclose(encode(np.pad(sound, (0, samples))), encode(sound), atol=1e-5)


def test_appended_silence_does_not_matter_to_a_file_of_another_rate(tmp_path: Path) -> None:
    sound = tone(440, rate=44_100)
    soundfile.write(tmp_path / "short.flac", sound, 44_100)
    soundfile.write(tmp_path / "long.flac", np.pad(sound, (0, 50_000)), 44_100)
    vectors, ok = ENCODER.encode([tmp_path / "short.flac", tmp_path / "long.flac"])
    assert ok.all()
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 3.0))
def test_loudness_does_not_change_the_vector(gain: float) -> None:
    sound = tone(500, seconds=0.5)
    np.testing.assert_allclose(encode(sound * np.float32(gain)), encode(sound), atol=1e-3)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_every_container_gives_nearly_the_same_vector(tmp_path: Path, suffix: str) -> None:
    sound = tone(440, rate=22_050)
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, np.stack([sound, sound], axis=1), 22_050)
    vectors, ok = ENCODER.encode([path])
    assert ok.all()
    expected, other = encode(resample(sound, 22_050)), encode(tone(1500))
    assert np.linalg.norm(vectors[0] - expected) < 0.35 * np.linalg.norm(vectors[0] - other)


def test_the_same_timbre_is_closer_than_another() -> None:
    low, low_again, high = encode(tone(300, seed=1)), encode(tone(310, seconds=0.7, seed=2)), encode(tone(1800, seed=3))
    assert np.linalg.norm(low - low_again) < 0.5 * np.linalg.norm(low - high)


def test_what_has_no_sound_is_missing(tmp_path: Path) -> None:
    contents = {"silent.wav": np.zeros(RATE), "none.wav": np.zeros(0), "nan.wav": np.full(RATE, np.nan)}
    for name, samples in contents.items():
        soundfile.write(tmp_path / name, samples, RATE, subtype="FLOAT")
    (tmp_path / "text.mp3").write_bytes(b"no sound here" * 50)
    soundfile.write(tmp_path / "good.wav", tone(440), RATE)
    names = [*contents, "text.mp3", "absent.wav", "good.wav"]
    vectors, ok = ENCODER.encode([tmp_path / name for name in names])
    assert ok.tolist() == [name == "good.wav" for name in names]
    assert not vectors[~ok].any()


def test_a_long_file_is_read_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmrec_model.encoders.sounds.MAX_SECONDS", 1)
    soundfile.write(tmp_path / "long.wav", tone(440, seconds=3), RATE)
    sound = read_sound(tmp_path / "long.wav")
    assert sound is not None
    assert len(sound) == RATE


def test_every_mel_band_hears_something_and_peaks_in_order() -> None:
    bank = mel_filterbank()
    assert (bank.sum(axis=0) > 0.4).all()
    assert (np.diff(bank.argmax(axis=0)) >= 0).all()


def test_the_weights_free_encoder_is_the_default_and_keeps_its_digest() -> None:
    encoder = load_encoder(EncoderConfig(modality="audio"))
    assert encoder.dim == 128
    assert encoder.digest == "2b0c3141be73610bbb6229bed798ad7cbbc09054659f7975d47b6fa935a1235d"


def test_a_number_format_is_refused_where_no_network_computes() -> None:
    with pytest.raises(EncoderError, match="dtype is bfloat16"):
        load_encoder(EncoderConfig(modality="audio", dtype="bfloat16"))


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(EncoderError, match="neither a folder nor a hub id"):
        load_encoder(EncoderConfig(modality="audio", source="no/such/model"))
