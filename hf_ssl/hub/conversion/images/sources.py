"""Where published checkpoints hold their backbone, and what the file does not say of it."""

from dataclasses import dataclass, field

from transformers.image_utils import PILImageResampling

BARE = (("", ""), ("state_dict.", ""), ("model.", ""), ("module.", ""), ("state_dict.module.", ""))
"""Places of a backbone that stands alone, as authors publish it beside the whole checkpoint."""


@dataclass(frozen=True)
class Source:
    """A library, or the code of a paper's authors.

    Args:
        title (`str`): how messages call it.
        places (`tuple[tuple[str, str], ...]`): beginnings of the names of the backbone's parameters, the preferred
            first, each in two parts: of all of that model, and of the backbone within it.
        mark (`str`): what some name in the file has to contain for the source to be recognised by itself.
        heads (`tuple[str, ...]`): beginnings of names within the backbone that an encoder does not have.
        resample (`PILImageResampling`): of the images, where the authors evaluate.
        num_heads (`dict[int, int | None]`): width of a ViT → attention heads, where that is not one per 64 channels;
            `None` where it depends on the objective.
    """

    title: str
    places: tuple[tuple[str, str], ...]
    mark: str = ""
    heads: tuple[str, ...] = ()
    resample: PILImageResampling = PILImageResampling.BILINEAR
    num_heads: dict[int, int | None] = field(default_factory=dict)

    def all_places(self) -> tuple[tuple[str, str], ...]:
        """Also those of a backbone alone, for a user who says whose it is."""
        return *self.places, *BARE


TEACHER_FIRST = (
    ("teacher.", "backbone."),
    ("teacher.module.", "backbone."),
    ("student.module.", "backbone."),
    ("student.", "backbone."),
)
LIGHTLY = tuple(
    (model, f"{role}backbone.{wrapper}")
    for model in ("state_dict.", "")
    for role in ("", "teacher_", "student_")
    for wrapper in ("vit.", "")
)

SOURCES: dict[str, Source] = {
    # facebookresearch/moco@7397dfe, moco/builder.py and main_lincls.py: the query encoder is evaluated.
    "moco": Source("MoCo (v1, v2)", (("state_dict.module.", "encoder_q."),), heads=("fc.",)),
    # facebookresearch/moco-v3@c349e6e, main_lincls.py; its ViT-S has 12 heads (vits.py); Resize(256) is bilinear.
    "moco_v3": Source(
        "MoCo v3", (("state_dict.module.", "base_encoder."),), heads=("head.", "fc."), num_heads={384: 12}
    ),
    # facebookresearch/simsiam@a7bc177, simsiam/builder.py.
    "simsiam": Source("SimSiam", (("state_dict.module.", "encoder."),), heads=("fc.",)),
    # bytedance/ibot@da316d8, main_ibot.py; the teacher is evaluated.
    "ibot": Source(
        "iBOT",
        TEACHER_FIRST,
        mark="ibot_loss",
        heads=("masked_embed", "head.", "fc."),
        resample=PILImageResampling.BICUBIC,
    ),
    # facebookresearch/dino@7c446df, main_dino.py and eval_linear.py: the teacher, Resize(256, interpolation=3).
    "dino": Source("DINO", TEACHER_FIRST, heads=("head.", "fc."), resample=PILImageResampling.BICUBIC),
    # facebookresearch/mae@efb2a80, models_mae.py and main_linprobe.py; ViT-H has 16 heads of 80 channels.
    "mae": Source(
        "MAE",
        (("model.", ""),),
        mark="model.patch_embed.",
        heads=("decoder_", "mask_token", "head."),
        resample=PILImageResampling.BICUBIC,
        num_heads={1280: 16},
    ),
    # facebookresearch/swav@06b1b7c, src/resnet50.py and eval_linear.py; DeepCluster-v2 is the same code.
    "swav": Source(
        "SwAV or DeepCluster-v2",
        (("state_dict.module.", ""), ("module.", ""), ("state_dict.", ""), ("", "")),
        mark="prototypes",
        heads=("projection_head.", "prototypes"),
    ),
    # facebookresearch/barlowtwins@8e8d284, main.py: self.bn is its own; resnet50.pth is a backbone alone.
    "barlow_twins": Source("Barlow Twins", (("model.module.", "backbone."),), mark="model.module.bn."),
    # facebookresearch/vicreg@4e12602, main_vicreg.py.
    "vicreg": Source("VICReg", (("model.module.", "backbone."),)),
    # facebookresearch/vissl@09270ed, models/base_ssl_model.py and models/trunks/resnext.py.
    "vissl": Source(
        "VISSL",
        (
            ("classy_state_dict.base_model.model.", "trunk._feature_blocks."),
            ("classy_state_dict.base_model.model.", "trunk."),
            ("model_state_dict.", "_feature_blocks."),
            ("model_state_dict.", ""),
            ("", "_feature_blocks."),
        ),
        heads=("patch_masking.",),
    ),
    # vturrisi/solo-learn@9187ea3, methods/base.py (every method has `classifier`) and main_linear.py (`encoder` was
    # the name before); its ViTs of width 192 and 384 have 12 heads for MAE and MoCo v3, else one per 64 channels.
    "solo-learn": Source(
        "solo-learn",
        (("state_dict.", "backbone."), ("state_dict.", "encoder.")),
        mark="state_dict.classifier.",
        heads=("fc.", "head."),
        num_heads={192: None, 384: None, 1280: 16},
    ),
    # lightly-ai/lightly@e8d317f: examples/pytorch_lightning, benchmarks/imagenet, masked_vision_transformer_timm.py.
    "lightly": Source("lightly", LIGHTLY, heads=("fc.", "head.")),
    "torchvision": Source("a backbone alone, by torchvision's names", BARE, mark="conv1.weight", heads=("fc.",)),
    "timm": Source(
        "a backbone alone, by timm's names",
        BARE,
        mark="cls_token",
        heads=("head.",),
        resample=PILImageResampling.BICUBIC,
        num_heads={1280: 16},
    ),
}
"""In the order in which they are recognised: where places are the same, the one that has a mark comes first."""
