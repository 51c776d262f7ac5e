"""How often the recordings of each language are drawn (XLSR: Conneau et al. 2020, arXiv:2006.13979)."""

from collections.abc import Sequence

import numpy as np

from hf_ssl.errors import InputError


def language_repeats(languages: Sequence[str | int], seconds: Sequence[float], alpha: float) -> np.ndarray:
    """How often each recording comes in an epoch, so that a language has a share `p_l ∝ (n_l / N)^α` of the speech.

    Of N seconds, n_l are of language l; they are drawn `r_l = p_l N / n_l` times: languages with little speech more
    than once, those with much less than once. The epoch lasts N seconds as before.

    Args:
        languages (`Sequence[str | int]`): of each recording.
        seconds (`Sequence[float]`): its length.
        alpha (`float`): α in [0, 1]: 1 keeps the shares of the data, 0 gives all languages the same; .5 in XLSR-53.

    Returns:
        `np.ndarray` of shape `(len(languages),)`: r_l of each recording's language; its mean over all seconds is 1.

    Raises:
        InputError: for a recording without a language.
    """
    missing = [row for row, language in enumerate(languages) if language is None or language == ""]
    if missing:
        raise InputError(
            f"{len(missing)} recordings have no language (data.language_column), first row {missing[0]} of those that "
            "can be used; fill the column or leave them out."
        )
    _, language = np.unique(np.asarray(languages), return_inverse=True)
    of_language = np.bincount(language, weights=np.asarray(seconds, dtype=np.float64))  # n_l
    shares = of_language**alpha
    shares = shares / shares.sum()  # p_l
    return (shares * of_language.sum() / of_language)[language]
