"""What the sites of one process share: catalogue and feature bundle, read once while their files stay the same."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from client.file_marks import Marks, marks_of
from mmrec_model.data.catalogue import Catalogue, open_catalogue
from mmrec_model.data.schema import SUFFIXES, FileSchema
from mmrec_model.features.bundle import FeatureBundle, open_bundle
from mmrec_model.model.items import Items
from mmrec_model.model.texts import Texts

_SHARED: Final = 2
"""Catalogues and bundles that a process keeps: the one in use, and the next where it changes."""


def table_marks(folder: Path, schema: FileSchema) -> Marks:
    """Of a table, in whatever format it lies there."""
    return marks_of(folder / f"{schema.stem}{suffix}" for suffix in SUFFIXES)


def bundle_marks(folder: Path) -> Marks:
    """Of a feature bundle's files."""
    return marks_of(sorted(path for path in folder.glob("*") if path.is_file()))


@lru_cache(maxsize=_SHARED)
def shared_catalogue(folder: Path, _marks: Marks) -> Catalogue:
    """The catalogue that lies there with these marks."""
    return open_catalogue(folder)


@lru_cache(maxsize=_SHARED)
def shared_bundle(folder: Path, _marks: Marks) -> FeatureBundle:
    """The verified bundle that lies there with these marks."""
    return open_bundle(folder)


@lru_cache(maxsize=_SHARED)
def shared_items(folder: Path, marks: Marks) -> Items:
    """Its items as tensors."""
    bundle = shared_bundle(folder, marks)
    return Items.from_arrays(bundle.vectors, np.asarray(bundle.present_NM), texts=Texts.open(folder))
