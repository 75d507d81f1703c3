"""An encoder that learned from the catalogue, as a folder that another machine loads by naming it as source."""

from __future__ import annotations

from pathlib import Path

from mmrec_model.encoders.interface import CatalogueEncoder
from mmrec_model.errors import EncoderError
from mmrec_model.storage import write_atomically


def write_encoder(encoder: CatalogueEncoder, folder: Path) -> None:
    """Write the encoder's files into `folder`, replacing those of the same names; its digest stays what it is.

    Raises:
        EncoderError: the folder cannot be written.
    """
    try:
        for name, content in encoder.files().items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise EncoderError(
            f"the encoder folder {folder} cannot be written: {error.strerror or error}",
            remedy="Give a folder on a local disk that this process may write",
        ) from error
