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
    "rotation": Objective(title="RotNet", modality="vision", paper="Gidaris et al. 2018, arXiv:1803.07728", module="vision.rotation", config="RotationConfig", model="RotationForPreTraining", encoder="resnet", recipes=("rotation_imagenet", "rotation_emoji"), card="rotation.md"),
    "context_prediction": Objective(title="context prediction", modality="vision", paper="Doersch et al. 2015, arXiv:1505.05192", module="vision.context_prediction", config="ContextPredictionConfig", model="ContextPredictionForPreTraining", encoder="resnet", recipes=("context_prediction_imagenet", "context_prediction_emoji"), card="context_prediction.md"),
    "jigsaw": Objective(title="jigsaw puzzles", modality="vision", paper="Noroozi & Favaro 2016, arXiv:1603.09246", module="vision.jigsaw", config="JigsawConfig", model="JigsawForPreTraining", encoder="resnet", recipes=("jigsaw_imagenet", "jigsaw_emoji"), card="jigsaw.md"),
    "simclr": Objective(title="SimCLR", modality="vision", paper="Chen et al. 2020, arXiv:2002.05709", module="vision.simclr", config="SimCLRConfig", model="SimCLRForPreTraining", encoder="resnet", recipes=("simclr_imagenet", "simclr_emoji"), card="simclr.md"),
    "moco": Objective(title="MoCo", modality="vision", paper="He et al. 2019, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297", module="vision.moco", config="MoCoConfig", model="MoCoForPreTraining", encoder="resnet", recipes=("moco_v1_imagenet", "moco_v2_imagenet", "moco_emoji"), card="moco.md"),
    "moco_v3": Objective(title="MoCo v3", modality="vision", paper="Chen et al. 2021, arXiv:2104.02057", module="vision.moco_v3", config="MoCoV3Config", model="MoCoV3ForPreTraining", encoder="vit", recipes=("moco_v3_imagenet", "moco_v3_emoji"), card="moco_v3.md"),
    "nnclr": Objective(title="NNCLR", modality="vision", paper="Dwibedi et al. 2021, arXiv:2104.14548", module="vision.nnclr", config="NNCLRConfig", model="NNCLRForPreTraining", encoder="resnet", recipes=("nnclr_imagenet", "nnclr_emoji"), card="nnclr.md"),
    "deepcluster": Objective(title="DeepCluster", modality="vision", paper="Caron et al. 2018, arXiv:1807.05520", module="vision.deepcluster", config="DeepClusterConfig", model="DeepClusterForPreTraining", encoder="resnet", recipes=("deepcluster_imagenet", "deepcluster_emoji"), card="deepcluster.md"),
    "deepcluster_v2": Objective(title="DeepCluster-v2", modality="vision", paper="Caron et al. 2020, arXiv:2006.09882", module="vision.deepcluster_v2", config="DeepClusterV2Config", model="DeepClusterV2ForPreTraining", encoder="resnet", recipes=("deepcluster_v2_imagenet", "deepcluster_v2_emoji"), card="deepcluster_v2.md"),
    "swav": Objective(title="SwAV", modality="vision", paper="Caron et al. 2020, arXiv:2006.09882", module="vision.swav", config="SwAVConfig", model="SwAVForPreTraining", encoder="resnet", recipes=("swav_imagenet", "swav_emoji"), card="swav.md"),
    "byol": Objective(title="BYOL", modality="vision", paper="Grill et al. 2020, arXiv:2006.07733", module="vision.byol", config="BYOLConfig", model="BYOLForPreTraining", encoder="resnet", recipes=("byol_imagenet", "byol_emoji"), card="byol.md"),
    "simsiam": Objective(title="SimSiam", modality="vision", paper="Chen & He 2020, arXiv:2011.10566", module="vision.simsiam", config="SimSiamConfig", model="SimSiamForPreTraining", encoder="resnet", recipes=("simsiam_imagenet", "simsiam_emoji"), card="simsiam.md"),
    "dino": Objective(title="DINO", modality="vision", paper="Caron et al. 2021, arXiv:2104.14294", module="vision.dino", config="DINOConfig", model="DINOForPreTraining", encoder="vit", recipes=("dino_imagenet", "dino_emoji"), card="dino.md"),
    "ibot": Objective(title="iBOT", modality="vision", paper="Zhou et al. 2021, arXiv:2111.07832", module="vision.ibot", config="IBOTConfig", model="IBOTForPreTraining", encoder="vit", recipes=("ibot_imagenet", "ibot_emoji"), card="ibot.md"),
    "barlow_twins": Objective(title="Barlow Twins", modality="vision", paper="Zbontar et al. 2021, arXiv:2103.03230", module="vision.barlow_twins", config="BarlowTwinsConfig", model="BarlowTwinsForPreTraining", encoder="resnet", recipes=("barlow_twins_imagenet", "barlow_twins_emoji"), card="barlow_twins.md"),
    "vicreg": Objective(title="VICReg", modality="vision", paper="Bardes et al. 2021, arXiv:2105.04906", module="vision.vicreg", config="VICRegConfig", model="VICRegForPreTraining", encoder="resnet", recipes=("vicreg_imagenet", "vicreg_emoji"), card="vicreg.md"),
    "mae": Objective(title="MAE", modality="vision", paper="He et al. 2021, arXiv:2111.06377", module="vision.mae", config="MAEConfig", model="MAEForPreTraining", encoder="vit", recipes=("mae_imagenet", "mae_emoji"), card="mae.md"),
    "beit": Objective(title="BEiT", modality="vision", paper="Bao et al. 2021, arXiv:2106.08254", module="vision.beit", config="BeitPreTrainingConfig", model="BeitForPreTraining", encoder="beit", recipes=("beit_imagenet", "beit_emoji"), card="beit.md"),
    "simmim": Objective(title="SimMIM", modality="vision", paper="Xie et al. 2021, arXiv:2111.09886", module="vision.simmim", config="SimMIMConfig", model="SimMIMForPreTraining", encoder="swin", recipes=("simmim_imagenet", "simmim_vit_imagenet", "simmim_emoji"), card="simmim.md"),
    "masked_patch": Objective(title="masked patch prediction", modality="vision", paper="Dosovitskiy et al. 2020, arXiv:2010.11929", module="vision.masked_patch", config="MaskedPatchConfig", model="MaskedPatchForPreTraining", encoder="vit", recipes=("masked_patch_imagenet", "masked_patch_emoji"), card="masked_patch.md"),
    "data2vec_vision": Objective(title="data2vec (vision)", modality="vision", paper="Baevski et al. 2022, arXiv:2202.03555", module="vision.data2vec_vision", config="Data2VecVisionPreTrainingConfig", model="Data2VecVisionForPreTraining", encoder="data2vec-vision", recipes=("data2vec_vision_imagenet", "data2vec_vision_emoji"), card="data2vec_vision.md"),
    "ijepa": Objective(title="I-JEPA", modality="vision", paper="Assran et al. 2023, arXiv:2301.08243", module="vision.ijepa", config="IJepaPreTrainingConfig", model="IJepaForPreTraining", encoder="ijepa", recipes=("ijepa_imagenet", "ijepa_emoji"), card="ijepa.md"),
    "igpt": Objective(title="iGPT", modality="vision", paper="Chen et al. 2020, ICML (Generative Pretraining from Pixels)", module="vision.igpt", config="IGPTConfig", model="IGPTForPreTraining", encoder="imagegpt", recipes=("igpt_imagenet", "igpt_emoji"), card="igpt.md"),
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
