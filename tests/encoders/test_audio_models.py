"""Laws of the published audio models, on tiny folders of every family: own extractor, valid frames, fixed digests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers as hf

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.interface import Encoder, recipe_digest
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import EncoderError

RATE = 16_000
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def wav2vec2(folder: Path) -> None:
    shape = hf.Wav2Vec2Config(
        **SMALL,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(5, 64),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    hf.Wav2Vec2Model(shape).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def spectrogram_transformer(folder: Path) -> None:
    hf.ASTModel(hf.ASTConfig(**SMALL, max_length=128, num_mel_bins=32)).save_pretrained(folder)
    hf.ASTFeatureExtractor(max_length=128, num_mel_bins=32).save_pretrained(folder)


def whisper(folder: Path) -> None:
    shape = hf.WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=16,
        max_source_positions=100,
        vocab_size=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    )
    hf.WhisperModel(shape).save_pretrained(folder)
    hf.WhisperFeatureExtractor(feature_size=16, chunk_length=2).save_pretrained(folder)


def clap(folder: Path) -> None:
    text = {**SMALL, "vocab_size": 20, "max_position_embeddings": 8}
    sound = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "hidden_size": 16,
        "window_size": 4,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "enable_fusion": False,
    }
    hf.ClapModel(hf.ClapConfig(text_config=text, audio_config=sound, projection_dim=12)).save_pretrained(folder)
    hf.ClapFeatureExtractor(feature_size=16, max_length_s=2, truncation="rand_trunc").save_pretrained(folder)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "wav2vec2": wav2vec2,
    "ast": spectrogram_transformer,
    "whisper": whisper,
    "clap": clap,
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    found = {}
    for name, make in FAMILIES.items():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        make(folder)
        found[name] = load_encoder(EncoderConfig(modality="audio", source=str(folder), batch_size=3))
    return found


def sound(seconds: float, *, pitch: float = 300.0, rate: int = 22_050) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    hiss = np.random.default_rng(0).normal(0, 0.02, len(time))
    return (0.4 * np.sin(2 * np.pi * pitch * time * (1 + time)) + hiss).astype(np.float32)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    one = sound(0.8)
    sounds = {
        "one": one,
        "one and silence": np.pad(one, (0, 9_000)),
        "other": sound(0.8, pitch=900),
        "long": sound(4.0),
        "click": sound(0.01),
        "silence": np.zeros(5000),
    }
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name}.wav", samples, 22_050)
    (folder / "text.wav").write_bytes(b"no sound")
    return [*(folder / f"{name}.wav" for name in sounds), folder / "text.wav"]


@pytest.mark.parametrize("family", FAMILIES)
def test_silence_at_the_end_changes_nothing_and_another_sound_does(
    family: str, encoders: dict[str, Encoder], paths: list[Path]
) -> None:
    vectors, ok = encoders[family].encode(paths)
    assert ok.tolist() == [True] * 5 + [False] * 2
    assert np.isfinite(vectors).all()
    apart = np.abs(vectors[0] - vectors[2]).max()
    assert np.abs(vectors[0] - vectors[1]).max() < 0.05 * apart
    assert apart > 1e-3
    again, _ = encoders[family].encode(paths[:5])
    np.testing.assert_allclose(vectors[:5], again, atol=1e-5)
    alone = np.concatenate([encoders[family].encode([path])[0] for path in paths[:5]])
    np.testing.assert_allclose(vectors[:5], alone, atol=1e-5)


def test_the_mean_is_over_the_frames_that_hold_sound(encoders: dict[str, Encoder], paths: list[Path]) -> None:
    """Whisper's two seconds hold 100 frames, a sound of 0.8 seconds some 40 of them."""
    encoder = encoders["whisper"]
    seen: list[torch.Tensor] = []
    hook = encoder._network.register_forward_hook(lambda _module, _given, output: seen.append(output[0]))
    vectors, _ = encoder.encode(paths[:1])
    hook.remove()
    frames = seen[0][0]
    assert frames.shape == (100, 16)
    means = torch.cumsum(frames, 0) / torch.arange(1, 101)[:, None]
    nearest = int((means - torch.from_numpy(vectors)).abs().amax(1).argmin())
    assert 40 <= nearest + 1 <= 44
    np.testing.assert_allclose(vectors[0], means[nearest], atol=1e-6)


def test_patches_of_a_spectrogram_transformer_are_averaged_over_frequency_first() -> None:
    from mmrec_model.encoders.audio_models import _over_time

    shape = hf.ASTConfig(max_length=48, num_mel_bins=36)  # 3 bands, 4 times
    bands = torch.arange(3.0)[:, None].expand(3, 4)
    times = torch.arange(4.0)[None].expand(3, 4)
    tokens = torch.stack([bands.flatten(), times.flatten()], dim=1)
    found = _over_time(torch.cat([torch.full((2, 2), 99.0), tokens])[None], shape)
    assert found.tolist() == [[[1, 0], [1, 1], [1, 2], [1, 3]]]


def test_a_folder_that_is_no_audio_model_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no vector for a sound"):
        load_encoder(EncoderConfig(modality="audio", source=str(tiny_model("bert"))))
    folder = tmp_path / "without"
    wav2vec2(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match="preprocessor_config"):
        load_encoder(EncoderConfig(modality="audio", source=str(folder)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shorter_number_format_is_another_encoder_with_nearly_the_same_vectors(
    family: str, encoders: dict[str, Encoder], paths: list[Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    FAMILIES[family](tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    short = load_encoder(EncoderConfig(modality="audio", source=str(tmp_path), dtype="bfloat16", batch_size=3))
    (expected, _), (found, ok) = encoders[family].encode(paths[:3]), short.encode(paths[:3])
    assert ok.all()
    assert short.digest == recipe_digest({**encoders[family].recipe, "dtype": "bfloat16"})
    assert (encoders[family].licence, short.licence) == ("unknown", "cc-by-4.0")
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.1)
    assert not np.array_equal(found, expected)


def test_the_extractor_is_part_of_the_digest(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    torch.manual_seed(0)
    wav2vec2(tmp_path)
    config = EncoderConfig(modality="audio", source=str(tmp_path))
    assert load_encoder(config).digest == encoders["wav2vec2"].digest
    hf.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    assert load_encoder(config).digest != encoders["wav2vec2"].digest
