"""The registry hands out every modality, and imports nothing heavy before it must."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mmrec_model.config import MODALITIES, EncoderConfig
from mmrec_model.encoders.interface import OWN_LICENCE, recipe_digest
from mmrec_model.encoders.registry import default_encoders, load_encoder


def test_there_is_one_default_encoder_per_modality_in_order() -> None:
    assert tuple(config.modality for config in default_encoders()) == MODALITIES


@pytest.mark.parametrize(
    ("modality", "source"),
    [(one, "embedded") for one in ("image", "audio", "video")] + [("audio", "gru"), ("video", "lstm")],
)
def test_a_loaded_encoder_says_what_it_is(modality: str, source: str) -> None:
    encoder = load_encoder(EncoderConfig(modality=modality, source=source))
    assert encoder.modality == modality
    assert encoder.dim > 0
    assert encoder.digest == recipe_digest(encoder.recipe)
    assert encoder.licence == OWN_LICENCE
    vectors, ok = encoder.encode([])
    assert (vectors.shape, ok.shape) == ((0, encoder.dim), (0,))


def test_the_registry_and_the_bundle_import_no_torch() -> None:
    program = (
        "import sys, mmrec_model.features.bundle, mmrec_model.encoders.registry;"
        "sys.exit(bool({'torch', 'transformers', 'torchvision', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
