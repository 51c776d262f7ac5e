"""Loading without transformers' report of what a checkpoint lacks."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def no_load_report() -> Iterator[None]:
    """For loading an encoder into a model with a head, which its checkpoint of course lacks."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
