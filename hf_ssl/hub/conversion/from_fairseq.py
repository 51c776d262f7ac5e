"""From a fairseq checkpoint to a folder that `from_pretrained` loads."""

import os
import shutil
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedConfig, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Architecture, Weights, encoder_config_of
from hf_ssl.hub.conversion.dictionary import Dictionary, make_tokenizer, read_dictionary
from hf_ssl.hub.conversion.encoder_config import to_encoder_config
from hf_ssl.hub.conversion.encoder_names import Names, old_weight_norm
from hf_ssl.hub.conversion.objectives import objective_architecture
from hf_ssl.hub.conversion.reading import FairseqCheckpoint, read_checkpoint
from hf_ssl.hub.conversion.report import Conversion
from hf_ssl.hub.conversion.settings import Settings, read_settings
from hf_ssl.hub.conversion.sidecar import Sidecar, contiguous
from hf_ssl.hub.conversion.teacher import copied_teacher, has_teacher
from hf_ssl.hub.conversion.transformers_models import transformers_architecture

TARGETS = {"transformers": transformers_architecture, "hf_ssl": objective_architecture}


def convert_from_fairseq(
    source: str | Path,
    destination: str | Path,
    to: Literal["transformers", "hf_ssl"],
    dictionary: str | Path | None = None,
) -> Conversion:
    """Convert a fairseq checkpoint of wav2vec 2.0, HuBERT or data2vec audio, pretrained or fine-tuned with CTC.

    Every weight keeps its bits. What the target has no place for (HuBERT's heads and data2vec's teacher in
    transformers, four codewords in ours) is written beside it, so that [`convert_to_fairseq`] gives them all back.

    Args:
        source (`str` or `Path`): a `.pt` of fairseq's trainer.
        destination (`str` or `Path`): a folder that does not exist yet, or is empty.
        to (`str`): `"transformers"` (`Wav2Vec2ForPreTraining`, `HubertModel`, `Data2VecAudioModel`, or their
            `ForCTC`) or `"hf_ssl"` (the objective, to continue the pretraining).
        dictionary (`str` or `Path`, *optional*): fairseq's `dict.ltr.txt`, for a model fine-tuned with CTC; by default
            the one in the checkpoint.

    Returns:
        [`Conversion`]

    Raises:
        InputError: for a file that is no such checkpoint or pickles anything unknown, settings that have no
            counterpart, missing or unknown weights, or a destination that is taken.
    """
    destination = Path(destination).resolve()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} already exists; choose another folder for the converted checkpoint.")
    checkpoint = read_checkpoint(source)
    settings = read_settings(checkpoint.settings, flat=checkpoint.flat, num_updates=checkpoint.num_updates)
    if dictionary is not None and settings.fine_tuning is None:
        raise InputError(f"{source} is not fine-tuned with CTC and has no letters; leave the dictionary out.")
    symbols = checkpoint.dictionary if dictionary is None else read_dictionary(Path(dictionary))
    architecture = TARGETS[to](settings)

    weights, made_up = _complete(checkpoint, architecture, symbols)
    config = architecture.to_config(settings, to_encoder_config(settings), weights)
    converted, aside = match_names(weights, architecture.names(config), architecture.set_aside)
    converted |= architecture.state(settings, config)
    architecture.check_shapes(config, converted)
    if settings.fine_tuning is not None:
        _check_symbols(symbols, config.vocab_size)

    labels = {} if symbols is None else {_extension(settings): symbols}
    sidecar = Sidecar(checkpoint.settings, checkpoint.flat, checkpoint.num_updates, labels, aside)
    staging = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _write(staging, architecture, config, converted, settings, sidecar)
        os.replace(staging, destination)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise InputError(f"{destination} could not be written ({error}); choose another folder.") from error
    return Conversion(
        destination,
        f"a {architecture.model_class.__name__}",
        set_aside=sorted(aside),
        left_out=list(checkpoint.left_out),
        made_up=made_up,
    )


def match_names(
    weights: Weights, names: Names, set_aside: tuple[str, ...] = (), explained_by: str = "its settings"
) -> tuple[Weights, Weights]:
    """Rename weights.

    Args:
        weights (`dict[str, Tensor]`): by fairseq's or another library's names.
        names (`dict[str, str]`): that library's name of everything that there has to be → its new name.
        set_aside (`tuple[str, ...]`): beginnings of names that may be there besides.
        explained_by (`str`): what `names` come from, for the error.

    Returns:
        the renamed weights, and those set aside under their own names.

    Raises:
        InputError: for weights that are missing, or that nothing is known of.
    """
    aside = {name: weight for name, weight in weights.items() if name not in names}
    unknown = [name for name in aside if not name.startswith(set_aside or ("\0",))]
    missing = [name for name in names if name not in weights]
    for problem, found in (("lacks", missing), ("has, unknown here,", unknown)):
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise InputError(
                f"The checkpoint {problem} {', '.join(found[:5])}{more}, which {explained_by} do not explain; nothing "
                "was converted."
            )
    return {here: weights[theirs] for theirs, here in names.items()}, aside


def _complete(
    checkpoint: FairseqCheckpoint, architecture: Architecture, symbols: Dictionary | None
) -> tuple[Weights, list[str]]:
    """All weights by the names that the conversion knows, and what was made up: a teacher that was not there yet."""
    weights = {old_weight_norm(name): weight for name, weight in checkpoint.weights.items()}
    weights = architecture.prepare(weights, symbols)
    if architecture.has_teacher and not has_teacher(weights):
        return weights | copied_teacher(weights), ["teacher (a copy of the student)"]
    return weights, []


def _check_symbols(symbols: Dictionary | None, vocab_size: int) -> None:
    if symbols is None:
        raise InputError(
            "A model fine-tuned with CTC needs the dictionary of its outputs, which this checkpoint does not hold; "
            "give fairseq's dict.<labels>.txt with --dictionary."
        )
    if len(symbols) + 4 != vocab_size:
        raise InputError(
            f"The dictionary has {len(symbols)} symbols, with 4 special ones {len(symbols) + 4}, but the model has "
            f"{vocab_size} outputs; give the dictionary that it was trained with."
        )


def _extension(settings: Settings) -> str:
    """Of the files of labels: the task names one, or a list of which there is one."""
    labels = settings.task.get("labels") or ("km" if settings.fine_tuning is None else "ltr")
    return Path(labels if isinstance(labels, str) else str(labels[0])).name  # never the way to another folder


def _write(
    folder: Path,
    architecture: Architecture,
    config: PreTrainedConfig,
    weights: Weights,
    settings: Settings,
    sidecar: Sidecar,
) -> None:
    folder.mkdir(parents=True)
    encoder = encoder_config_of(config)
    config.architectures = [architecture.model_class.__name__]
    config.dtype = str(weights[architecture.prefix + "masked_spec_embed"].dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    save_file(contiguous(weights), folder / "model.safetensors", metadata={"format": "pt"})
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=settings.sampling_rate,
        do_normalize=settings.normalize,
        # The group norm of the first layer takes in padding: such models were never given a mask.
        return_attention_mask=encoder.to_dict().get("feat_extract_norm") != "group",
    )
    if settings.fine_tuning is None:
        extractor.save_pretrained(folder)
    else:
        (symbols,) = sidecar.dictionaries.values()
        Wav2Vec2Processor(feature_extractor=extractor, tokenizer=make_tokenizer(symbols)).save_pretrained(folder)
    sidecar.write(folder)
