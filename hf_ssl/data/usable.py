"""The items of a pretraining: loaded, opened once, without those that cannot be used."""

from collections.abc import Mapping

from datasets import Dataset, IterableDataset

from hf_ssl.data.arguments import DataArguments
from hf_ssl.data.checking import drop_broken
from hf_ssl.data.columns import Split
from hf_ssl.data.loading import STREAM_VALIDATION_ITEMS, load_splits
from hf_ssl.errors import InputError

SETTINGS_OF_LABELS = ("train_fraction", "labelled_augmentation", "random_erasing", "mixup", "cutmix")


def load_usable(args: DataArguments, modality: str, seed: int) -> tuple[Split, Dataset | None, int]:
    """The training items, the validation items if there are any, and how many broken ones were left out of them.

    A stream is shuffled within a buffer, as `datasets` does it; of a validation stream the first 1,000 items are kept
    in memory; its broken items are not counted but logged as they come.

    Args:
        args ([`DataArguments`]): the `data` section.
        modality (`str`): `"vision"` or `"speech"`.
        seed (`int`): of the run.

    Raises:
        InputError: for data that cannot be used, a stream without training items, or settings of fine-tuning.
    """
    check_needs_no_labels(args)
    loaded = load_splits(args, modality)
    splits = {name: loaded[name] for name in ("train", "validation") if name in loaded}
    if isinstance(splits["train"], IterableDataset):
        return (*_of_streams(splits, args, modality, seed), 0)
    kept = usable(splits, modality, args)
    num_skipped = sum(map(len, splits.values())) - sum(map(len, kept.values()))
    return kept["train"], kept.get("validation"), num_skipped


def check_needs_no_labels(args: DataArguments) -> None:
    """Raise `InputError` for settings that only what learns from labels has a use for."""
    for name in SETTINGS_OF_LABELS:
        if vars(args).get(name):
            raise InputError(f"data.{name} is for fine-tuning, and nothing is learned from labels here; leave it out.")


def usable(splits: Mapping[str, Dataset], modality: str, args: DataArguments) -> dict[str, Dataset]:
    """Every split without its broken items; one of which nothing is left is left out, except `train`."""
    filled = {name: split for name, split in splits.items() if len(split)}
    kept = {name: drop_broken(split, modality, args, required=name == "train") for name, split in filled.items()}
    return {name: split for name, split in kept.items() if len(split)}


def _of_streams(
    splits: Mapping[str, IterableDataset], args: DataArguments, modality: str, seed: int
) -> tuple[IterableDataset, Dataset | None]:
    if next(iter(splits["train"]), None) is None:
        raise InputError(
            f"The stream {args.path} has no training items (the first {STREAM_VALIDATION_ITEMS:,} are held out where "
            "there is no validation split); set data.streaming=false, or data.validation_split=null."
        )
    train = drop_broken(splits["train"].shuffle(seed=seed), modality, args)
    if "validation" not in splits:
        return train, None
    validation = list(drop_broken(splits["validation"].take(STREAM_VALIDATION_ITEMS), modality, args))
    return train, Dataset.from_list(validation) if validation else None
