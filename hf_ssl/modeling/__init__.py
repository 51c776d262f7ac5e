"""What is learned: one file an objective, and the table of them."""

from dataclasses import dataclass, replace
from importlib import import_module

from hf_ssl.errors import unknown_name
from hf_ssl.modeling.blocks.pretrained import SSLConfig, SSLPreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One row of the table of objectives.

    Args:
        title (`str`): the name that the paper gives it.
        modality (`str`): `"vision"`, `"speech"` or `"text"`.
        paper (`str`): authors, year and arXiv number.
        module (`str`): where it is written, below `hf_ssl.modeling`.
        config (`str`): name of its config class.
        model (`str`): name of its model class.
        encoder (`str`): `model_type` of its default encoder.
        recipes (`tuple[str, ...]`): its files in `hf_ssl/recipes`, the paper's preset first, the one for the embedded
            data last.
        card (`str`): its file in `model_cards`.
    """

    title: str
    modality: str
    paper: str
    module: str
    config: str
    model: str
    encoder: str
    recipes: tuple[str, ...]
    card: str

    @property
    def config_class(self) -> type[SSLConfig]:
        """The objective's config class."""
        return getattr(import_module(f"hf_ssl.modeling.{self.module}"), self.config)

    @property
    def model_class(self) -> type[SSLPreTrainedModel]:
        """The objective's model class."""
        return getattr(import_module(f"hf_ssl.modeling.{self.module}"), self.model)


# fmt: off
OBJECTIVES: dict[str, Objective] = {
    "simclr": Objective(title="SimCLR", modality="vision", paper="Chen et al. 2020, arXiv:2002.05709", module="vision.simclr", config="SimCLRConfig", model="SimCLRForPreTraining", encoder="resnet", recipes=("simclr_imagenet", "simclr_emoji"), card="simclr.md"),
    "hubert": Objective(title="HuBERT", modality="speech", paper="Hsu et al. 2021, arXiv:2106.07447", module="speech.hubert", config="HubertPreTrainingConfig", model="HubertForPreTraining", encoder="hubert", recipes=("hubert_base", "wavlm_base", "hubert_asterisk_iterations", "wavlm_asterisk", "hubert_asterisk"), card="hubert.md"),
    "wav2vec2": Objective(title="wav2vec 2.0", modality="speech", paper="Baevski et al. 2020, arXiv:2006.11477", module="speech.wav2vec2", config="Wav2Vec2PreTrainingConfig", model="Wav2Vec2PreTrainingModel", encoder="wav2vec2", recipes=("wav2vec2_base", "wav2vec2_large", "wav2vec2_asterisk"), card="wav2vec2.md"),
    "data2vec_audio": Objective(title="data2vec (speech)", modality="speech", paper="Baevski et al. 2022, arXiv:2202.03555", module="speech.data2vec_audio", config="Data2VecAudioPreTrainingConfig", model="Data2VecAudioForPreTraining", encoder="data2vec-audio", recipes=("data2vec_audio_base", "data2vec_audio_asterisk"), card="data2vec_audio.md"),
    "data2vec2_audio": Objective(title="data2vec 2.0 (speech)", modality="speech", paper="Baevski et al. 2022, arXiv:2212.07525", module="speech.data2vec2_audio", config="Data2Vec2AudioPreTrainingConfig", model="Data2Vec2AudioForPreTraining", encoder="data2vec2-audio", recipes=("data2vec2_audio_base", "data2vec2_audio_asterisk"), card="data2vec2_audio.md"),
    "best_rq": Objective(title="BEST-RQ", modality="speech", paper="Chiu et al. 2022, arXiv:2202.01855", module="speech.best_rq", config="BestRQConfig", model="BestRQForPreTraining", encoder="wav2vec2-bert", recipes=("best_rq_base", "best_rq_asterisk"), card="best_rq.md"),
    "bert": Objective(title="BERT", modality="text", paper="Devlin et al. 2018, arXiv:1810.04805", module="text.bert", config="BertPreTrainingConfig", model="BertPreTrainingModel", encoder="bert", recipes=("bert_base", "bert_glosses"), card="bert.md"),
}
# fmt: on

DISTILLATION = Objective(
    title="distillation",
    modality="text",  # or the others, see `distillation_of`
    paper="Sanh et al. 2019, arXiv:1910.01108; Chang et al. 2022, arXiv:2110.01900; Wang et al. 2020, arXiv:2002.10957; "
    "Jiao et al. 2020, arXiv:1909.10351",
    module="distillation.student",
    config="DistillationConfig",
    model="DistillationModel",
    encoder="bert",
    recipes=(
        "distil_bert",
        "distil_hubert",
        "distil_minilm",
        "distil_minilm_v2",
        "distil_tinybert",
        "distil_bert_glosses",
        "distil_emoji",
        "distil_hubert_asterisk",
    ),
    card="distillation.md",
)
"""What `hf-ssl distill` trains: no objective of its own, since it needs a teacher, but saved and described as one."""


def distillation_of(modality: str) -> Objective:
    """The row of the distillation of a modality's encoders."""
    return replace(DISTILLATION, modality=modality)


def objective(name: str) -> Objective:
    """The row of an objective.

    Raises:
        InputError: for a name that is not in the table.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]
