"""What a plan needs of one site beyond data and catalogue, each part made on first use and kept for the plan's run.

A run sends many messages with one plan. How many weights it trains and the users' own media in its space are the same
at each of them; to find the first, the model is built, with the text encoder in a scope that trains it.

Own media are encoded where they lie and never leave. They are encoded again when a picture file has changed; the other
files are the site's (`client.open_sites`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from client.file_marks import Marks, marks_of
from mmrec_model.config import RunConfig, UserMedium
from mmrec_model.data.dataset import read_user_columns
from mmrec_model.encoders.interface import Encoder
from mmrec_model.features.own_media import bundle_encoder, encode_own_media
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import build_model
from mmrec_model.model.scope import trained_share

if TYPE_CHECKING:
    from client.site import Site


class PlanParts:
    """Parts of one plan at one site.

    Args:
        site: whose files are read.
        config: the plan.
    """

    def __init__(self, site: Site, config: RunConfig) -> None:
        self._site, self._config = site, config
        self._encoded: tuple[Marks, Items] | None = None

    @cached_property
    def trained_weights(self) -> int:
        """How many weights the plan trains.

        Raises:
            EncoderError: the text encoder that it tunes cannot be loaded.
            ModelError: the encoder here is another one, or cannot be tuned.
        """
        return trained_share(build_model(self._config, encoder_source=self._site.config.text_encoder)).trained

    @cached_property
    def own_encoders(self) -> dict[UserMedium, Encoder]:
        """The encoders of the users' own media that the plan reads, verified; reads no user's data.

        Raises:
            EncoderError: one cannot be loaded.
            FeatureError: one is not that of the installed bundle.
        """
        settings = self._site.config
        sources: dict[UserMedium, str] = {"text": settings.text_encoder, "image": settings.image_encoder}
        media = self._config.model.user_media
        return {name: bundle_encoder(self._site.bundle, name, sources[name]) for name in media}

    def require_encoders(self) -> None:
        """Load `own_encoders` now, where a refusal still costs nothing."""
        _ = self.own_encoders

    def own_media(self) -> Items | None:
        """The users' own media `[U]` in the order of the data set; None for a plan that reads none.

        Raises:
            MmrecError: as `own_encoders`, or `users.*` cannot be used.
        """
        if not self._config.model.user_media:
            return None
        pictures = marks_of(Path(cell) for cell in self._own_files.get("image", ()) if cell)
        if self._encoded is None or self._encoded[0] != pictures:
            self._encoded = pictures, self._encode()
        return self._encoded[1]

    @cached_property
    def _own_files(self) -> dict[UserMedium, list[str | Path]]:
        """One text or picture file per user, empty where there is none."""
        columns = read_user_columns(self._site.data_folder)
        cells = {
            name: [columns.get(user, {}).get(name, "") for user in self._site.dataset.user_ids]
            for name in self._config.model.user_media
        }
        return {name: [Path(c) if c and name == "image" else c for c in of_users] for name, of_users in cells.items()}

    def _encode(self) -> Items:
        widths = self._config.model_dims
        users = len(self._site.dataset)
        vectors = {name: np.zeros((users, width), np.float32) for name, width in widths.items()}
        present_UM = np.zeros((users, len(vectors)), dtype=bool)
        for name, encoder in self.own_encoders.items():
            vectors[name], present_UM[:, list(vectors).index(name)] = encode_own_media(
                self._site.features_folder, name, encoder, self._own_files[name], store=self._site.profiles
            )
        return replace(Items.from_arrays(vectors, present_UM), encoded=True)
