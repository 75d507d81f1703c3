"""Laws of the recurrent encoders: lengths mask, order counts, a folder gives the same vectors as what was saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.interface import recipe_digest
from mmrec_model.encoders.recurrent import (
    CELLS,
    MaskedRecurrence,
    RecurrentAudioEncoder,
    RecurrentFilmEncoder,
    RecurrentSettings,
    pad_frames,
)
from mmrec_model.encoders.recurrent_audio import save_audio_network
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.encoders.sounds import BANDS, RATE, log_mel
from mmrec_model.errors import ConfigError, EncoderError

ENCODERS = {cell: load_encoder(EncoderConfig(modality="audio", source=cell, batch_size=4)) for cell in CELLS}


def tune(*pitches: float, each: float = 0.2) -> np.ndarray:
    time = np.arange(int(each * RATE)) / RATE
    return np.concatenate([0.4 * np.sin(2 * np.pi * pitch * time) for pitch in pitches]).astype(np.float32)


def save(folder: Path, **sounds: np.ndarray) -> list[Path]:
    for name, sound in sounds.items():
        soundfile.write(folder / f"{name}.wav", sound, RATE)
    return [folder / f"{name}.wav" for name in sounds]


def trained(hidden: int = 12, width: int = BANDS) -> RecurrentAudioEncoder:
    torch.manual_seed(0)
    return RecurrentAudioEncoder(RecurrentSettings(cell="lstm", width=width, hidden=hidden, layers=2))


@pytest.mark.parametrize("cell", CELLS)
def test_appended_silence_does_not_change_the_vector(cell: str, tmp_path: Path) -> None:
    sound = tune(300, 500)
    other = tune(800, 300, 900)
    paths = save(tmp_path, short=sound, long=np.pad(sound, (0, 2 * RATE)), other=other)
    vectors, ok = ENCODERS[cell].encode(paths)
    assert ok.all()
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 0.01


@pytest.mark.parametrize("cell", CELLS)
def test_the_order_of_the_notes_matters_and_the_neighbours_do_not(cell: str, tmp_path: Path) -> None:
    paths = save(tmp_path, up=tune(300, 900), down=tune(900, 300), long=tune(*[400] * 9))
    together, _ = ENCODERS[cell].encode(paths)
    alone = np.concatenate([ENCODERS[cell].encode([path])[0] for path in paths])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_silent_and_damaged_sounds_are_missing(tmp_path: Path) -> None:
    paths = save(tmp_path, silent=np.zeros(RATE), good=tune(440))
    (tmp_path / "text.mp3").write_bytes(b"no sound")
    vectors, ok = ENCODERS["gru"].encode([*paths, tmp_path / "text.mp3"])
    assert ok.tolist() == [False, True, False]
    assert not vectors[~ok].any()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), cell=st.sampled_from(CELLS), noise=st.integers(0, 9)
)
def test_what_lies_behind_a_length_reaches_neither_vector_nor_gradient(
    lengths: list[int], cell: str, noise: int
) -> None:
    generator = torch.Generator().manual_seed(noise)
    pool = MaskedRecurrence(RecurrentSettings(cell=cell, width=3, hidden=4))
    frames = torch.randn(len(lengths), 9, 3, generator=generator, requires_grad=True)
    behind = torch.arange(9)[None, :, None] >= torch.tensor(lengths)[:, None, None]
    vectors = pool(frames, torch.tensor(lengths))
    torch.testing.assert_close(pool(frames.detach().masked_fill(behind, 7.0), torch.tensor(lengths)), vectors)
    vectors.sum().backward()
    assert not frames.grad[behind.expand_as(frames)].any()


def test_padding_keeps_every_frame_in_its_place() -> None:
    frames, lengths = pad_frames([torch.ones(2, 3), torch.full((4, 3), 2.0)])
    assert lengths.tolist() == [2, 4]
    assert frames[:, :, 0].tolist() == [[1, 1, 0, 0], [2, 2, 2, 2]]


def test_every_weight_learns() -> None:
    for network in (trained(), RecurrentFilmEncoder(RecurrentSettings(width=BANDS, hidden=5))):
        network(torch.rand(3, 7, BANDS) * 6, torch.tensor([7, 1, 4])).square().sum().backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_the_seeded_networks_are_the_same_on_every_machine() -> None:
    assert {cell: (encoder.dim, encoder.digest[:16]) for cell, encoder in ENCODERS.items()} == {
        "gru": (256, "edad1c7da431e134"),
        "lstm": (256, "2630e9cbf4849303"),
    }
    assert all("no meaning" in encoder.note for encoder in ENCODERS.values())


@pytest.mark.parametrize("cell", CELLS)
def test_a_shorter_number_format_is_another_encoder_with_nearly_the_same_vectors(cell: str, tmp_path: Path) -> None:
    short = load_encoder(EncoderConfig(modality="audio", source=cell, dtype="bfloat16"))
    paths = save(tmp_path, one=tune(300, 500), two=tune(900))
    (expected, _), (found, ok) = ENCODERS[cell].encode(paths), short.encode(paths)
    assert ok.all()
    assert short.digest == recipe_digest({**ENCODERS[cell].recipe, "dtype": "bfloat16"}) != ENCODERS[cell].digest
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert not np.array_equal(found, expected)


def test_a_folder_gives_the_vectors_of_the_network_that_was_saved(tmp_path: Path) -> None:
    network = trained()
    save_audio_network(tmp_path / "net", network, note="trained on ten tunes")
    encoder = load_encoder(EncoderConfig(modality="audio", source=str(tmp_path / "net")))
    sound = tune(300, 700)
    vectors, ok = encoder.encode(save(tmp_path, one=sound))
    assert ok.all()
    levels = log_mel(soundfile.read(tmp_path / "one.wav", dtype="float32")[0])
    with torch.inference_mode():
        expected = network(torch.from_numpy(levels)[None], torch.tensor([len(levels)]))
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-6)
    assert encoder.note == "trained on ten tunes"
    assert encoder.licence == "unknown"
    (tmp_path / "net" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert load_encoder(EncoderConfig(modality="audio", source=str(tmp_path / "net"))).licence == "mit"
    with torch.no_grad():
        network.pool.recurrence.weight_hh_l1[0, 0] += 1e-3
    save_audio_network(tmp_path / "next", network, note="trained on ten tunes")
    assert load_encoder(EncoderConfig(modality="audio", source=str(tmp_path / "next"))).digest != encoder.digest


def test_a_damaged_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    config = EncoderConfig(modality="audio", source=str(tmp_path))
    save_audio_network(tmp_path, trained(), note="")
    weights = (tmp_path / "model.safetensors").read_bytes()
    card = json.loads((tmp_path / "config.json").read_text())

    def write(**changes: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"mmrec": {**card["mmrec"], **changes}}))

    (tmp_path / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(EncoderError, match="does not fit"):
        load_encoder(config)
    (tmp_path / "model.safetensors").write_bytes(weights)
    write(settings={**card["mmrec"]["settings"], "hidden": 13})
    with pytest.raises(EncoderError, match="does not fit"):
        load_encoder(config)
    write(settings={**card["mmrec"]["settings"], "hidden": 0})
    with pytest.raises(ConfigError, match="hidden"):
        load_encoder(config)
    write(settings={**card["mmrec"]["settings"], "width": 40})
    with pytest.raises(EncoderError, match="40 mel bands"):
        load_encoder(config)
    write(kind="recurrent-film")
    with pytest.raises(EncoderError, match="recurrent-film"):
        load_encoder(config)
    write(format=2)
    with pytest.raises(EncoderError, match="format 2"):
        load_encoder(config)
