"""Tiny models of every family, tuned with every tuner on two items, saved and loaded again."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTImageProcessorPil, Wav2Vec2FeatureExtractor, set_seed

from hf_ssl.data.tokenization import train_tokenizer
from hf_ssl.modeling.blocks.pretrained import Processor
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.task_model import AdaptedModel, make_task_model
from hf_ssl.tuners.freezing import head_parameters
from tests.families import IMAGES, SPEECH, classifier

FAMILY_LABELS = {0: "cat", 1: "dog", 2: "owl"}
LABELS = torch.tensor([0, 2])
MAX_STEPS = 400

# what the defaults are too large for here
SETTINGS = {"fourierft": {"n_frequency": 20}, "vera": {"r": 16}, "houlsby": {"bottleneck_size": 8}}


@dataclass
class Tuned:
    """A model after training.

    Args:
        folder (`Path`): where it is saved.
        inputs (`dict[str, Tensor]`): of two items.
        logits (`Tensor`): of the trained model (2, 3), in evaluation mode.
        untrained (`Tensor`): of the model before training.
        plain (`Tensor`): of the encoder with the same head and no tuner.
        trained_names (`set[str]`): parameters that were trained, as the plain model calls them.
        still (`set[str]`): those of them that training left as they were.
        moved_encoder (`set[str]`): parameters of the encoder itself that are other than they were.
        losses (`list[float]`): of the first step and of the last.
    """

    folder: Path
    inputs: dict[str, Tensor]
    logits: Tensor
    untrained: Tensor
    plain: Tensor
    trained_names: set[str]
    still: set[str]
    moved_encoder: set[str]
    losses: list[float]


class Workshop:
    """Encoders of each family in a folder, and what is made of them; each is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tuned = cache(self._tuned)
        self.encoder = cache(self._encoder)

    def _encoder(self, family: str) -> Path:
        folder = self.folder / "encoders" / family
        classifier(family)[0].base_model.save_pretrained(folder)
        processor(family).save_pretrained(folder)
        return folder

    def make(self, tuner: str, family: str) -> PreTrainedModel | AdaptedModel:
        """The model before training, in evaluation mode; its head is the same with every tuner."""
        arguments = FineTuningModelArguments(
            encoder=str(self.encoder(family)),
            task=task_of(family),
            tuner=tuner,
            tuner_config=SETTINGS.get(tuner),
        )
        set_seed(0)
        labels = {"id2label": FAMILY_LABELS, "label2id": {name: index for index, name in FAMILY_LABELS.items()}}
        return make_task_model(arguments, labels).eval()

    def _tuned(self, tuner: str, family: str) -> Tuned:
        plain, (_, inputs) = self.make("none", family), classifier(family)
        model = self.make(tuner, family)
        with torch.no_grad():
            plain_logits, untrained = plain(**inputs).logits, model(**inputs).logits
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        losses = overfit(model, inputs)
        after = dict(model.named_parameters())
        with torch.no_grad():
            logits = model(**inputs).logits
        trained = {name for name, p in after.items() if p.requires_grad}
        folder = self.folder / "tuned" / f"{tuner}-{family}"
        model.save_pretrained(folder)
        processor(family).save_pretrained(folder)
        torch.save({"inputs": inputs, "logits": logits}, folder.with_name(f"{folder.name}.pt"))
        encoder = dict(plain.named_parameters()).keys() - head_parameters(plain).keys()
        return Tuned(
            folder,
            inputs,
            logits,
            untrained,
            plain_logits,
            {own_name(name) for name in trained},
            {own_name(name) for name in trained if torch.equal(before[name], after[name])},
            {own_name(name) for name, p in after.items() if not torch.equal(before[name], p)} & encoder,
            losses,
        )


def own_name(name: str) -> str:
    """The name of a parameter without what PEFT puts before it, and around the head and the layers that it adapts."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".modules_to_save.default", "").replace(".base_layer", "")


def overfit(model: torch.nn.Module, inputs: dict[str, Tensor]) -> list[float]:
    """Train until the loss has halved, for `MAX_STEPS` at most; the first loss and the last."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses: list[float] = []
    for _ in range(MAX_STEPS):
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits, LABELS)
        losses.append(loss.item())
        if len(losses) > 3 and losses[-1] < losses[0] / 2:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [losses[0], losses[-1]]


def task_of(family: str) -> str:
    """The task whose model `classifier` gives of a family."""
    if family in IMAGES:
        return "image-classification"
    return "audio-classification" if family in SPEECH else "text-classification"


@cache
def _tokenizer() -> Processor:
    return train_tokenizer(
        "wordpiece", ["a cat sleeps", "a dog runs"] * 8, vocab_size=40, lowercase=True, max_length=16
    )


def processor(family: str) -> Processor:
    """Of the family's modality; what is saved with a model must be loadable."""
    if family in IMAGES:
        return ViTImageProcessorPil(size={"height": 16, "width": 16})
    return Wav2Vec2FeatureExtractor() if family in SPEECH else _tokenizer()
