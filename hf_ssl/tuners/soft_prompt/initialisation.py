"""Where soft prompts start from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.tuners.soft_prompt.config import SoftPromptConfig
from hf_ssl.tuners.soft_prompt.layer import SoftPromptLayer


def uniform_bound(encoder_config: PreTrainedConfig) -> float:
    """The a of U(-a, a) in VPT's code: Xavier's `sqrt(6 / (fan_in + fan_out))` of the projection of a patch.

    For an encoder without patches fan_in is the hidden size, too, which for ViT-B/16 it is anyway (3 * 16 * 16 = 768).
    """
    fields = encoder_config.to_dict()
    width = encoder_config.hidden_size
    if "patch_size" not in fields:
        return math.sqrt(6 / (width + width))
    patch = fields["patch_size"]
    area = patch**2 if isinstance(patch, int) else math.prod(patch)
    return math.sqrt(6 / (fields.get("num_channels", 1) * area + width))


def vectors_of(model: PreTrainedModel, config: SoftPromptConfig) -> Tensor:
    """What the config's `init` names, in the space of the embedding matrix.

    Randomness is `torch`'s: `set_seed` settles what is drawn.

    Returns:
        `Tensor` of shape `(num_tokens, embedding_size)`.

    Raises:
        InputError: for an encoder that reads no text, classes without names, too many words, a tokenizer that is not
            found, or more prompts than tokens.
    """
    if model.base_model.main_input_name != "input_ids":
        raise InputError(
            f"init is {config.init!r}, but a {model.base_model.config.model_type} encoder reads no words; leave init "
            "out."
        )
    embeddings = model.get_input_embeddings().weight.detach().float()
    if config.num_tokens > len(embeddings):
        raise InputError(
            f"num_tokens is {config.num_tokens}, but the vocabulary has {len(embeddings)}; give at most as many."
        )
    if config.init == "kmeans":
        return _centres(embeddings, config.num_tokens)
    words = _class_names(model) if config.init == "classes" else config.init_words or []
    if len(words) > config.num_tokens:
        raise InputError(
            f"num_tokens is {config.num_tokens}, but the soft prompt is to start from {len(words)} words; raise "
            "num_tokens or give fewer."
        )
    drawn = embeddings[torch.randperm(len(embeddings))[: config.num_tokens - len(words)].to(embeddings.device)]
    if not words:
        return drawn
    tokenizer = _load_tokenizer(config.tokenizer or model.config.name_or_path)
    return torch.cat([torch.stack([_embed(word, tokenizer, embeddings) for word in words]), drawn])


@torch.no_grad()
def start_from(model: PreTrainedModel, vectors: Tensor, adapter_name: str = "default") -> None:
    """Let a prompt of a text encoder start from what its layers receive for vectors in place of words.

    Each vector goes through the encoder alone, at the first position: normalisation and projection of the embeddings
    then are those of a word, and no order is put on the prompts. Deep prompts start from activations of the words, as
    the prefixes of Li & Liang 2021 (arXiv:2101.00190, section 7.4).

    Args:
        model (`PreTrainedModel`): with the adapter in it; of a `PeftModel`, `get_base_model()`.
        vectors (`Tensor` of shape `(num_tokens, embedding_size)`): such as rows of the embedding matrix.
        adapter_name (`str`): the prompt.
    """
    encoder = model.base_model
    layers = [
        module
        for module in encoder.modules()
        if isinstance(module, SoftPromptLayer) and adapter_name in module.soft_prompt_embeddings
    ]
    received: dict[SoftPromptLayer, list[Tensor]] = {layer: [] for layer in layers}

    def hook(layer: SoftPromptLayer, inputs: Any) -> None:
        received[layer].append(inputs[0][:, 0])

    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        with _as_without_prompts(encoder):
            encoder(
                inputs_embeds=vectors[:, None].to(encoder.dtype),
                attention_mask=torch.ones(len(vectors), 1, dtype=torch.long, device=vectors.device),
            )
    finally:
        for handle in handles:
            handle.remove()
    for layer, states in received.items():
        prompts = layer.soft_prompt_embeddings[adapter_name]
        prompts.copy_(torch.stack(states[: len(prompts)]))


@contextmanager
def _as_without_prompts(encoder: PreTrainedModel) -> Iterator[None]:
    """The encoder in evaluation mode, and all prompts out of use."""
    modes = {module: module.training for module in encoder.modules()}
    disabled = {m: m.disable_adapters for m in encoder.modules() if isinstance(m, SoftPromptLayer)}
    encoder.eval()
    for layer in disabled:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for layer, was_disabled in disabled.items():
            layer._disable_adapters = was_disabled


def _centres(embeddings: Tensor, num_clusters: int) -> Tensor:
    from sklearn.cluster import KMeans  # slow to import, and seldom asked for

    seed = int(torch.randint(2**31, ()))
    k_means = KMeans(num_clusters, n_init=1, random_state=seed).fit(embeddings.cpu().numpy())
    return torch.from_numpy(k_means.cluster_centers_).to(embeddings)


def _class_names(model: PreTrainedModel) -> list[str]:
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    if names == [f"LABEL_{i}" for i in range(len(names))]:
        raise InputError("init is 'classes', but they have no names; give the model's config an id2label.")
    return names


def _load_tokenizer(name: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"There is no tokenizer in {name!r} ({str(error).splitlines()[0]}); name one in the prompt's tokenizer."
        ) from error


def _embed(word: str, tokenizer: Any, embeddings: Tensor) -> Tensor:
    # With a space before it, a byte-level vocabulary has the word as it stands in a text.
    ids = tokenizer(f" {word}", add_special_tokens=False).input_ids
    if not ids:
        raise InputError(f"{word!r} has no token in the vocabulary; give other words for the soft prompt.")
    return embeddings[ids].mean(0)
