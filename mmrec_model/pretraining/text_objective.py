"""Masked words and sentence pairs as one objective over a text network; the loss of both is their sum.

`mlm` reads whole texts, the other two read pairs; `mlm+nsp` hides words in the pairs as Devlin et al. (2019) do. The
held-out part is masked and paired the same way after every epoch. Shapes: B texts of a batch, T tokens, M masked
tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from mmrec_model.encoders.augmentation import IGNORED, Augmentation
from mmrec_model.errors import DataError
from mmrec_model.pretraining.loop import Figures
from mmrec_model.pretraining.masked_language import MaskedLanguageHead, masked_loss, token_counts, unigram_entropy
from mmrec_model.pretraining.sentence_pairs import Pair, draw_pairs
from mmrec_model.pretraining.settings import PretrainingSettings
from mmrec_model.pretraining.text_base import TextBase

HELD_OUT_DRAWS = 4
"""Maskings and pairings of the held-out part that its figures are taken over."""


@dataclass(frozen=True)
class _Batch:
    ids_BT: Tensor
    mask_BT: Tensor
    types_BT: Tensor
    labels_BT: Tensor
    follows_B: Tensor


@dataclass(frozen=True)
class Texts:
    """One side of the split: whole texts, and sentences, per item."""

    ids: Sequence[str]
    texts: Sequence[str]
    documents: Sequence[Sequence[str]]


class _Parts(nn.Module):
    """Encoder and heads, so that one optimiser and one checkpoint hold all of it."""

    def __init__(self, base: TextBase, counts_V: Tensor, *, words: bool, pairs: bool) -> None:
        super().__init__()
        self.encoder = base.network
        self.words = MaskedLanguageHead(base.width, counts_V) if words else None
        self.pairs = (
            nn.Sequential(nn.Linear(base.width, base.width), nn.Tanh(), nn.Linear(base.width, 2)) if pairs else None
        )


class TextObjective:
    """See `mmrec_model.pretraining.loop.Objective`.

    Raises:
        DataError: too few texts, or too few with two sentences, on one side of the split.
    """

    def __init__(self, base: TextBase, training: Texts, held_out: Texts, settings: PretrainingSettings) -> None:
        self._base, self._settings = base, settings
        self._training, self._held_out = training, held_out
        self._words, self._pairs = "mlm" in settings.task, "nsp" in settings.task
        for side, texts in (("training", training), ("held-out", held_out)):
            _refuse_poor(side, texts, pairs=self._pairs)
        tokenized = base.tokenizer(list(training.texts), truncation=True, max_length=base.max_tokens)["input_ids"]
        self._special = frozenset(base.tokenizer.all_special_ids)
        plain = [[one for one in ids if one not in self._special] for ids in tokenized]
        self._vocabulary = len(base.words)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network: nn.Module = _Parts(
                base, token_counts(plain, self._vocabulary), words=self._words, pairs=self._pairs
            ).to(settings.device)
        self._augmentation = Augmentation(settings.seed)
        count = len(draw_pairs(training.documents, 0, 0)) if self._pairs else len(_filled(training))
        self.steps = -(-count // settings.batch_size)

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """The loss of each step; see `Objective.losses`."""
        examples = self._examples(self._training, epoch, both=False)
        order = torch.randperm(
            len(examples), generator=torch.Generator().manual_seed(self._settings.seed + epoch)
        ).tolist()
        size = self._settings.batch_size
        for start in range(0, len(order), size):
            batch = self._batch([examples[place] for place in order[start : start + size]], epoch, self._training)
            words_loss, pairs_loss, _, _ = self._forward(batch)
            yield words_loss + pairs_loss

    @torch.no_grad()
    def assess(self) -> Figures:
        """Losses in nats and accuracies on the held-out part, beside what chance and counting words reach."""
        loss_words, loss_pairs, right_words, right_pairs, pairs = 0.0, 0.0, 0, 0, 0
        labels: list[int] = []
        for draw in range(HELD_OUT_DRAWS):
            examples = self._examples(self._held_out, -draw, both=True)
            for start in range(0, len(examples), self._settings.batch_size):
                batch = self._batch(examples[start : start + self._settings.batch_size], -draw, self._held_out)
                words_loss, pairs_loss, scores_MV, scores_B2 = self._forward(batch)
                hidden_M = batch.labels_BT[batch.labels_BT != IGNORED]
                loss_words += float(words_loss) * len(hidden_M)
                loss_pairs += float(pairs_loss) * len(batch.follows_B)
                right_words += int((scores_MV.argmax(1) == hidden_M).sum()) if self._words else 0
                right_pairs += int((scores_B2.argmax(1) == batch.follows_B).sum()) if self._pairs else 0
                labels += hidden_M.tolist()
                pairs += len(batch.follows_B)
        words = max(1, len(labels))
        figures = {"loss": loss_words / words * self._words + loss_pairs / max(1, pairs) * self._pairs}
        if self._words:
            figures |= {"mlm_loss": loss_words / words, "mlm_accuracy": right_words / words}
            figures |= {"mlm_unigram_entropy": unigram_entropy(labels), "mlm_tokens": float(len(labels))}
        if self._pairs:
            figures |= {"nsp_loss": loss_pairs / pairs, "nsp_accuracy": right_pairs / pairs}
            figures |= {"nsp_chance": 0.5, "nsp_pairs": float(pairs)}
        return figures

    def _examples(self, texts: Texts, epoch: int, *, both: bool) -> list[Pair]:
        if self._pairs:
            return draw_pairs(texts.documents, self._settings.seed, epoch if epoch > 0 else 2**32 + epoch, both=both)
        return [Pair(number, texts.texts[number], "", follows=True) for number in _filled(texts)]

    def _batch(self, examples: Sequence[Pair], epoch: int, texts: Texts) -> _Batch:
        tokenizer, limit, device = self._base.tokenizer, self._base.max_tokens, self._settings.device
        seconds = [pair.second for pair in examples] if self._pairs else None
        encoded = tokenizer(
            [pair.first for pair in examples],
            seconds,
            truncation="longest_first",
            max_length=limit,
            return_token_type_ids=True,
        )
        rows = [torch.tensor(ids) for ids in encoded["input_ids"]]
        hidden = [self._hide(row, texts.ids[pair.item], epoch) for row, pair in zip(rows, examples, strict=True)]
        types = [torch.tensor(one) for one in encoded["token_type_ids"]]
        padding = tokenizer.pad_token_id or 0
        return _Batch(
            pad_sequence([ids for ids, _ in hidden], batch_first=True, padding_value=padding).to(device),
            pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device),
            pad_sequence(types, batch_first=True).to(device),
            pad_sequence([labels for _, labels in hidden], batch_first=True, padding_value=IGNORED).to(device),
            torch.tensor([int(pair.follows) for pair in examples], device=device),
        )

    def _hide(self, ids_T: Tensor, item: str, epoch: int) -> tuple[Tensor, Tensor]:
        return self._augmentation.tokens(
            ids_T,
            item=item,
            epoch=epoch if self._words else None,
            mask_id=self._base.tokenizer.mask_token_id,
            vocabulary=self._vocabulary,
            special=self._special,
        )

    def _forward(self, batch: _Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both losses, the scores of masked tokens [M, V] and of pairs [B, 2]; zeros for what is not trained."""
        parts: _Parts = self.network  # type: ignore[assignment]
        pair_types = {"token_type_ids": batch.types_BT} if self._base.marks_pairs and self._pairs else {}
        state_BTD = parts.encoder(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, **pair_types).last_hidden_state
        nothing = state_BTD.new_zeros(())
        words_loss, scores_MV, pairs_loss, scores_B2 = nothing, nothing, nothing, nothing
        if parts.words is not None:
            chosen_BT = batch.labels_BT != IGNORED
            scores_MV = parts.words(state_BTD[chosen_BT], self._base.words)
            words_loss = masked_loss(scores_MV, batch.labels_BT[chosen_BT])
        if parts.pairs is not None:
            scores_B2 = parts.pairs(state_BTD[:, 0])
            pairs_loss = cross_entropy(scores_B2, batch.follows_B)
        return words_loss, pairs_loss, scores_MV, scores_B2


def _filled(texts: Texts) -> list[int]:
    return [number for number, text in enumerate(texts.texts) if text.strip()]


def _refuse_poor(side: str, texts: Texts, *, pairs: bool) -> None:
    found = sum(len(sentences) > 1 for sentences in texts.documents) if pairs else len(_filled(texts))
    if found < 2:
        what = "with two sentences" if pairs else "with a text"
        raise DataError(
            f"{found} items of the {side} part are {what}, the least is 2",
            remedy="Give more items a text, or train `mlm`, which needs one sentence each" if pairs else "Add texts",
        )
