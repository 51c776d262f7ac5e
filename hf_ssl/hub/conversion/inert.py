"""What is pickled beside weights, read without running any code: known classes become inert stand-ins."""

from collections.abc import Callable
from typing import Any

PICKLED_CLASSES: dict[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    # What omegaconf's containers hold: types, and an empty cache.
    "collections": ("defaultdict",),
    "builtins": ("bool", "dict", "float", "int", "list", "str", "tuple"),
    "typing": ("Any", "Dict", "List", "Optional", "Tuple", "Union"),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": ("AnyNode", "BooleanNode", "BytesNode", "EnumNode", "FloatNode", "IntegerNode", "StringNode"),
    # Losses and meters of the training's progress.
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    # Folders among the arguments of a training.
    "pathlib": ("Path", "PosixPath", "PurePosixPath", "WindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePosixPath", "WindowsPath"),
    "fairseq.data.dictionary": ("Dictionary",),
    "fairseq.data.text_compressor": ("TextCompressionLevel",),
    "fairseq.dataclass.configs": (
        "CheckpointConfig",
        "CommonConfig",
        "CommonEvalConfig",
        "DatasetConfig",
        "DistributedTrainingConfig",
        "EMAConfig",
        "EvalLMConfig",
        "FairseqBMUFConfig",
        "FairseqConfig",
        "FairseqDataclass",
        "GenerationConfig",
        "InteractiveConfig",
        "OptimizationConfig",
    ),
    "fairseq.models.wav2vec.wav2vec2": ("Wav2Vec2Config",),
    "fairseq.models.wav2vec.wav2vec2_asr": ("Wav2Vec2AsrConfig", "Wav2Vec2CtcConfig"),
    "fairseq.models.hubert.hubert": ("HubertConfig",),
    "fairseq.models.hubert.hubert_asr": ("HubertAsrConfig", "HubertCtcConfig"),
    "examples.data2vec.models.data2vec_audio": ("Data2VecAudioConfig",),
    "fairseq.tasks.audio_pretraining": ("AudioPretrainingConfig",),
    "fairseq.tasks.audio_finetuning": ("AudioFinetuningConfig",),
    "fairseq.tasks.hubert_pretraining": ("HubertPretrainingConfig",),
    "fairseq.criterions.wav2vec_criterion": ("Wav2VecCriterionConfig",),
    "fairseq.criterions.hubert_criterion": ("HubertCriterionConfig",),
    "fairseq.criterions.model_criterion": ("ModelCriterionConfig",),
    "fairseq.criterions.ctc": ("CtcCriterionConfig",),
    "fairseq.optim.adam": ("FairseqAdamConfig",),
    "fairseq.optim.lr_scheduler.polynomial_decay_schedule": ("PolynomialDecayLRScheduleConfig",),
    "fairseq.optim.lr_scheduler.tri_stage_lr_scheduler": ("TriStageLRScheduleConfig",),
}
"""Module → classes that published checkpoints pickle. None of them is imported; whatever is not here is refused."""


class Inert:
    """Holds what the pickle gives to an object of some class, and does nothing with it.

    Attributes:
        arguments (`tuple`): of its constructor.
        state: what `__setstate__` was given, most often the attributes by name.
    """

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> "Inert":  # noqa: D102 - an unpickler may create an object without __init__
        new = super().__new__(cls)
        new.arguments, new.state = arguments, {}
        return new

    def __setstate__(self, state: Any) -> None:
        self.state = state


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """One inert class under the name of each of [`PICKLED_CLASSES`], for `torch.serialization.safe_globals`."""
    return [
        type(name, (Inert,), {"__module__": module, "__qualname__": name})
        for module, names in PICKLED_CLASSES.items()
        for name in names
    ]


def plain(value: Any) -> Any:
    """Settings as JSON has them: omegaconf's containers and a `Namespace` become dicts and lists, their nodes values.

    What is neither (types, devices) becomes its text.
    """
    if isinstance(value, Inert):
        return plain(_content(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _content(stand_in: Inert) -> Any:
    name = type(stand_in).__name__
    if name in ("DictConfig", "ListConfig"):
        return stand_in.state["_content"]
    if name.endswith("Node"):
        return stand_in.state["_val"]
    if stand_in.state:
        return stand_in.state
    # An enumeration's member is pickled as its class and its value.
    return stand_in.arguments[0] if len(stand_in.arguments) == 1 else list(stand_in.arguments)
