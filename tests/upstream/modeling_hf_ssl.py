"""`ModelTesterMixin` on every objective, own encoder and model with exits.

`run.py` puts this file among transformers' tests.
"""

import unittest

import hf_ssl  # noqa: F401 - registers the classes

from ...test_configuration_common import ConfigTester  # noqa: TID252 - where transformers' tests lie
from ...test_modeling_common import ModelTesterMixin  # noqa: TID252
from .tiny import OWN_ENCODERS, TINY, WITH_EXITS, with_exits


class Tester:
    """What the mixin asks of a model's tester, from a row of `tests.tiny.TINY`."""

    is_training = True

    def __init__(self, parent: unittest.TestCase, name: str) -> None:
        self.parent, self.name = parent, name
        model, batch = TINY[name]()
        self.model_class, self.batch = type(model), batch
        self.batch_size = len(next(iter(batch.values())))
        encoder = model.config.encoder_config
        self.num_hidden_layers, self.hidden_size = encoder.num_hidden_layers, encoder.hidden_size
        self.seq_length = model(**batch, output_hidden_states=True).hidden_states[0].shape[1]

    def prepare_config_and_inputs_for_common(self):
        model, batch = TINY[self.name]()
        return model.config, batch


class EncoderTester(Tester):
    """The same of the row's encoder alone."""

    is_training = False  # it has no loss

    def __init__(self, parent: unittest.TestCase, name: str) -> None:
        super().__init__(parent, name)
        encoder = TINY[name]()[0].encoder
        self.model_class = type(encoder)
        self.seq_length = encoder._get_feat_extract_output_lengths(self.batch["input_values"].shape[1])
        self.num_attention_heads = encoder.config.num_attention_heads

    def prepare_config_and_inputs_for_common(self):
        config, batch = super().prepare_config_and_inputs_for_common()
        unused = config.encoder_config.to_dict()  # a model on it would have chosen its attention
        return type(config.encoder_config).from_dict(unused), {"input_values": batch["input_values"]}


class ExitTester(Tester):
    """The same of a model with exits, from a row of `tests.tiny.WITH_EXITS`."""

    def __init__(self, parent: unittest.TestCase, model_class: type) -> None:
        self.parent, self.model_class = parent, model_class
        model, self.batch = with_exits(model_class)
        self.batch_size = len(self.batch["labels"])
        encoder = model.config.encoder_config
        self.num_hidden_layers, self.hidden_size = encoder.num_hidden_layers, encoder.hidden_size
        self.seq_length = model(**self.batch, output_hidden_states=True).hidden_states[0].shape[1]

    def prepare_config_and_inputs_for_common(self):
        model, batch = with_exits(self.model_class)
        return model.config, batch


class ObjectiveTest(ModelTesterMixin):
    """The mixin's tests; a skip names what of the mixin cannot mean a pretraining model that holds an encoder."""

    name: str
    _is_composite = True
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self) -> None:
        self.model_tester = Tester(self, self.name)
        self.all_model_classes = (self.model_tester.model_class,)

    @unittest.skip(
        "an encoder's checkpoint has the encoder's config: `from_encoder` loads it, and the battery tests that"
    )
    def test_correct_missing_keys(self) -> None: ...

    def test_model_get_set_embeddings(self) -> None:
        if self.name != "bert":
            self.skipTest("only text has an embedding table")
        super().test_model_get_set_embeddings()

    def test_batching_equivalence(self) -> None:
        if not self.model_tester.model_class.count_predictions(self.model_tester.batch):
            self.skipTest("the loss and its logits are defined over a batch of samples")
        super().test_batching_equivalence()

    def test_config(self) -> None:
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        ConfigTester(self, config_class=type(config), has_text_modality=False).run_common_tests()


class EncoderTest(ModelTesterMixin):
    """The mixin's tests of an encoder that transformers does not have."""

    name: str
    test_resize_embeddings = False

    def setUp(self) -> None:
        self.model_tester = EncoderTester(self, self.name)
        self.all_model_classes = (self.model_tester.model_class,)

    @unittest.skip("a waveform encoder has no embedding table")
    def test_model_get_set_embeddings(self) -> None: ...

    def test_config(self) -> None:
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        ConfigTester(self, config_class=type(config), has_text_modality=False).run_common_tests()


class ExitTest(ModelTesterMixin):
    """The mixin's tests of a model with exits."""

    model_class: type
    _is_composite = True
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self) -> None:
        self.model_tester = ExitTester(self, self.model_class)
        self.all_model_classes = (self.model_class,)

    @unittest.skip("a bare encoder's checkpoint has the encoder's config, and loads with one of ours beside it")
    def test_correct_missing_keys(self) -> None: ...

    def test_model_get_set_embeddings(self) -> None:
        if "input_ids" not in self.model_tester.batch:
            self.skipTest("only text has an embedding table")
        super().test_model_get_set_embeddings()

    def test_config(self) -> None:
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        ConfigTester(self, config_class=type(config), has_text_modality=False).run_common_tests()


for _name in TINY:
    _class = type(f"{_name.title()}Test", (ObjectiveTest, unittest.TestCase), {"name": _name})
    globals()[_class.__name__] = _class
for _name in OWN_ENCODERS:
    _class = type(f"{_name.title()}EncoderTest", (EncoderTest, unittest.TestCase), {"name": _name})
    globals()[_class.__name__] = _class
for _model_class in WITH_EXITS:
    _class = type(f"{_model_class.__name__}Test", (ExitTest, unittest.TestCase), {"model_class": _model_class})
    globals()[_class.__name__] = _class
del _class
