"""Features in two dimensions, to be looked at."""

# N items, D dimensions

import numpy as np
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

PERPLEXITY = 30.0


def map_places(features: np.ndarray) -> np.ndarray:
    """A place on a map for each item: t-SNE (van der Maaten & Hinton 2008) of standardised features.

    Neighbours on the map are neighbours among the features; distances between groups, and how dense they are, say
    little.

    Args:
        features (`np.ndarray`): (N, D), N > 3.

    Returns:
        `np.ndarray`: (N, 2).
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(
        StandardScaler().fit_transform(features)
    )
