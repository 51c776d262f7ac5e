"""Runs of full sentences, without pairs (RoBERTa, Liu et al. 2019, arXiv:1907.11692, section 4.2: FULL-SENTENCES)."""

import numpy as np

from hf_ssl.data.documents import TokenizedDocuments
from hf_ssl.data.sequences import SpecialTokens, TokenSequence


class FullSentences:
    """The runs of a corpus as items.

    Args:
        documents ([`TokenizedDocuments`]): where the tokens are.
        runs (`np.ndarray` of shape `(runs, 5)`): as [`pack_full_sentences`] makes them.
        special ([`SpecialTokens`]): what is put around a run and between its documents.
    """

    def __init__(self, documents: TokenizedDocuments, runs: np.ndarray, special: SpecialTokens) -> None:
        self.documents, self.runs, self.special = documents, runs, special
        self.sizes = np.array([bounds[-1] for bounds in documents.sentence_bounds()])  # tokens of each document

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: int) -> TokenSequence:
        first, start, last, end, _ = self.runs[index].tolist()
        return self.special.join_documents(
            [
                self.documents.tokens(
                    document, start if document == first else 0, end if document == last else int(self.sizes[document])
                )
                for document in range(first, last + 1)
            ]
        )

    @property
    def lengths(self) -> list[float]:
        """Tokens of each item, special ones included."""
        return (self.runs[:, 4] + self.special.num_in_single).astype(float).tolist()


def pack_full_sentences(bounds: list[np.ndarray], *, num_tokens: int) -> np.ndarray:
    """Cut the corpus into runs of whole sentences, over the ends of documents, which cost a separator each.

    A sentence that alone is longer than a run is cut into as many as it fills.

    Args:
        bounds (`list[np.ndarray]`): of each document, the tokens before each sentence and in all of it.
        num_tokens (`int`): the most tokens of a run, separators included.

    Returns:
        `np.ndarray` of shape `(runs, 5)`, int64: first document and its first token, last document and its token
        after the last, and the number of tokens, separators included.
    """
    runs: list[tuple[int, int, int, int, int]] = []
    first, start, size = 0, 0, 0  # of the run that is open
    last, end = 0, 0  # where it ends so far
    for document, limits in enumerate(bounds):
        for piece_start, piece_end in _pieces(limits, num_tokens):
            separator = int(size > 0 and document != last)
            if size + separator + piece_end - piece_start > num_tokens:
                runs.append((first, start, last, end, size))
                size = separator = 0
            if size == 0:
                first, start = document, piece_start
            size += separator + piece_end - piece_start
            last, end = document, piece_end
    runs.append((first, start, last, end, size))
    return np.array(runs, dtype=np.int64)


def _pieces(limits: np.ndarray, num_tokens: int) -> list[tuple[int, int]]:
    """The sentences of a document as (start, end), those that are too long in parts."""
    return [
        (start, min(start + num_tokens, end))
        for sentence_start, end in zip(limits[:-1].tolist(), limits[1:].tolist(), strict=True)
        for start in range(sentence_start, end, num_tokens)
    ]
