"""HuBERT's codewords: fairseq has them in the order of a dictionary, behind four for its special symbols."""

import torch

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Weights
from hf_ssl.hub.conversion.dictionary import Dictionary
from hf_ssl.modeling.blocks.codebook import NUM_SPECIAL_LABELS, drop_special_labels

LABEL_EMBEDDINGS = "label_embs_concat"
SPECIALS = f"{LABEL_EMBEDDINGS}[:{NUM_SPECIAL_LABELS}]"
CLUSTERS = f"{LABEL_EMBEDDINGS}[{NUM_SPECIAL_LABELS}:]"


def split_label_embeddings(weights: Weights, dictionary: Dictionary | None) -> Weights:
    """The weights of a HuBERT with the codewords of special symbols and of clusters apart.

    Args:
        weights (`dict[str, Tensor]`): with `label_embs_concat` (4 + V, D).
        dictionary (`list[tuple[str, int]]`, *optional*): the symbols of its labels; where the checkpoint does not hold
            them, they are taken for 0 … V − 1 in this order, as in dictionaries made the documented way.

    Returns:
        `dict[str, Tensor]`: with `label_embs_concat[:4]` (4, D), and `label_embs_concat[4:]` (V, D), whose row `i` is
            that of cluster `i`.

    Raises:
        InputError: when the symbols are not clusters.
    """
    if LABEL_EMBEDDINGS not in weights:
        return weights
    embeddings = weights[LABEL_EMBEDDINGS]
    clusters = drop_special_labels(embeddings, len(embeddings) - NUM_SPECIAL_LABELS)
    rows = _rows_of_clusters(dictionary, len(clusters))
    rest = {name: weight for name, weight in weights.items() if name != LABEL_EMBEDDINGS}
    return rest | {SPECIALS: embeddings[:NUM_SPECIAL_LABELS], CLUSTERS: clusters[rows]}


def join_label_embeddings(weights: Weights, dictionary: Dictionary | None) -> Weights:
    """The reverse of [`split_label_embeddings`].

    Raises:
        InputError: for the codewords of clusters without those of special symbols.
    """
    if SPECIALS not in weights:
        raise InputError(
            "fairseq.safetensors, which holds the codewords of HuBERT's special symbols, is gone; put it back, or "
            "remove fairseq.json too, and new settings and codewords are made."
        )
    clusters = weights[CLUSTERS]
    rows = _rows_of_clusters(dictionary, len(clusters))
    in_order = torch.empty_like(clusters)
    in_order[rows] = clusters
    rest = {name: weight for name, weight in weights.items() if name not in (SPECIALS, CLUSTERS)}
    return rest | {LABEL_EMBEDDINGS: torch.cat([weights[SPECIALS], in_order])}


def _rows_of_clusters(dictionary: Dictionary | None, num_clusters: int) -> list[int]:
    """Which row of the dictionary each cluster has."""
    clusters = [str(cluster) for cluster in range(num_clusters)]
    symbols = clusters if dictionary is None else [symbol for symbol, _ in dictionary]
    if sorted(symbols) != sorted(clusters):
        raise InputError(
            f"The labels of this HuBERT are {', '.join(symbols[:5])} … ({len(symbols)} symbols), not the clusters 0 "
            f"to {num_clusters - 1} of its codewords; convert the encoder with --to transformers."
        )
    row = {symbol: i for i, symbol in enumerate(symbols)}
    return [row[cluster] for cluster in clusters]
