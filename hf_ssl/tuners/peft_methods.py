"""Methods of fine-tuning of our own, made known to PEFT.

`get_peft_model`, `PeftModel.from_pretrained` and a model's own `load_adapter` then take them like PEFT's. A process
that loads such an adapter has to import hf_ssl first.
"""

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method


def register(name: str, config_class: type[PeftConfig], model_class: type[BaseTuner]) -> None:
    """Make a method known to PEFT under its name in lower case; what is known already stays.

    Args:
        name (`str`): of the method; `PeftType` gets it in upper case, and the parameters begin with it.
        config_class (`type`): its config.
        model_class (`type`): its tuner; its `prefix` is the name with an underscore.
    """
    if name.upper() in PeftType.__members__:
        return
    _add_peft_type(name.upper())
    register_peft_method(name=name, config_cls=config_class, model_cls=model_class)


def _add_peft_type(name: str) -> None:
    """A new member of `PeftType`, which PEFT closes and has no other door to (as of 0.21)."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member._sort_order_ = len(PeftType._member_names_)
    type.__setattr__(PeftType, name, member)
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
