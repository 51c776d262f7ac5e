"""The `data` section of a run: one dataclass a modality."""

from dataclasses import dataclass

from hf_ssl.errors import InputError, unknown_name

TEXT_UNITS = ("characters", "phones")


@dataclass(kw_only=True)
class DataArguments:
    """What data a run is fed.

    Args:
        path (`str`): what `datasets.load_dataset` takes (a Hub name, a folder, a parquet/CSV/JSON file), a folder of
            one's own images, recordings or texts, or `sample:<name>` for the embedded data.
        name (`str`, *optional*): configuration of a Hub data set.
        train_split (`str`): name of the training split.
        validation_split (`str`, *optional*): name of the validation split; where the data has none, a fixed share is
            held out.
        test_split (`str`, *optional*): name of the test split.
        label_column (`str`, *optional*): column with the class, for fine-tuning and evaluation.
        streaming (`bool`): read the data as it is needed instead of first storing it.
        on_error (`str`): what to do with an item that cannot be read: `"raise"` or `"skip"` (counted and reported).
        num_proc (`int`): processes for the one pass that checks the data.
        max_train_items (`int`, *optional*): use only the first so many training items, at least 1.
        train_fraction (`float`, *optional*): low-shot fine-tuning and evaluation: the share of the training items, in
            (0, 1], whose classes are known, drawn class by class; see [`hf_ssl.data.low_shot`]. The others are left
            out; validation and test stay whole.
        train_fraction_seed (`int`): which of them they are.
    """

    path: str
    name: str | None = None
    train_split: str = "train"
    validation_split: str | None = "validation"
    test_split: str | None = "test"
    label_column: str | None = None
    streaming: bool = False
    on_error: str = "raise"
    num_proc: int = 1
    max_train_items: int | None = None
    train_fraction: float | None = None
    train_fraction_seed: int = 0

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise unknown_name("way to treat broken items (data.on_error)", self.on_error, ("raise", "skip"))
        if self.max_train_items is not None and self.max_train_items < 1:
            raise InputError(f"data.max_train_items is {self.max_train_items}; give at least 1, or leave it out.")
        if self.train_fraction is not None:
            check_fraction("data.train_fraction", self.train_fraction)
        if self.train_fraction_seed < 0:
            raise InputError(f"data.train_fraction_seed is {self.train_fraction_seed}; give at least 0.")


def check_fraction(name: str, fraction: float) -> None:
    """Raise `InputError` for a share of the training items, given under some name, that cannot be."""
    if not 0 < fraction <= 1:
        raise InputError(f"{name} is {fraction}; give a share of the training items in (0, 1], such as 0.01 for 1 %.")


@dataclass(kw_only=True)
class ImageDataArguments(DataArguments):
    """Images, and the views that are made of them.

    Args:
        image_column (`str`): column with the images.
        image_size (`int`): side of the square that the encoder sees, in pixels.
        local_image_size (`int`): side of the local views, in pixels, where the preset has such; at most `image_size`.
        augmentation (`str`): preset of [`hf_ssl.data.augmentation`].
        augment_on (`str`): where the photometric part runs: `"device"` (batched, on the training device) or
            `"worker"`.
        palette (`str`, *optional*): for objectives that read an image as colours (iGPT): the folder or Hub name of an
            image processor that has a palette (`openai/imagegpt-small`). By default the run finds one by k-means over
            the pixels of the training images. Pixels become colours in the worker, whatever `augment_on` says.
        num_colours (`int`): of a palette that the run finds.
        labelled_augmentation (`str`, *optional*): in fine-tuning, the preset of one view that is drawn of each image
            in each epoch, such as `"random_crop"`; by default the image is seen whole, as in evaluation.
        random_erasing (`float`): in fine-tuning, share of the images of which a rectangle is replaced by noise, in
            [0, 1]; .25 in MAE. See [`hf_ssl.data.random_erasing`].
        mixup (`float`): in fine-tuning, α of the Beta(α, α) by which two images are averaged; 0 for none, .8 in MAE.
            See [`hf_ssl.data.image_mixing`].
        cutmix (`float`): likewise α of the share of another image that is pasted into an image; 1.0 in MAE.
        mixing_probability (`float`): share of the images that are mixed at all.
        cutmix_share (`float`): share of these that are cut, where both α are above 0.
    """

    image_column: str = "image"
    image_size: int = 224
    local_image_size: int = 96
    augmentation: str = "simclr"
    augment_on: str = "device"
    palette: str | None = None
    num_colours: int = 512
    labelled_augmentation: str | None = None
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixing_probability: float = 1.0
    cutmix_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment_on not in ("device", "worker"):
            raise unknown_name("place to augment (data.augment_on)", self.augment_on, ("device", "worker"))
        for name in ("image_size", "local_image_size"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"data.{name} is {getattr(self, name)}; give the side of the image in pixels, at least 1."
                )
        if self.num_colours < 2:
            raise InputError(f"data.num_colours is {self.num_colours}; a palette has at least 2.")
        for name in ("random_erasing", "mixing_probability", "cutmix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"data.{name} is {getattr(self, name)}; give a share of the images in [0, 1].")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise InputError(f"data.{name} is {getattr(self, name)}; give the α of a Beta distribution, or 0.")


@dataclass(kw_only=True)
class SpeechDataArguments(DataArguments):
    """Recordings, and the units that are predicted of them.

    Args:
        audio_column (`str`): column with the recordings.
        text_column (`str`, *optional*): column with the transcripts, for recognition.
        text_unit (`str`): what is recognised of them: `"characters"`, or `"phones"`, which stand in the transcripts
            with spaces between them.
        normalise_text (`bool`): of characters, recognise lower-case letters and apostrophes only; otherwise all as
            they are, for languages whose case matters, or transcripts normalised already.
        sampling_rate (`int`): Hz; every recording is resampled to it.
        min_seconds (`float`): shorter recordings count as broken.
        max_seconds (`float`): longer ones are cropped at random in training.
        units (`str`, *optional*): folder written by `hf-ssl cluster`, for objectives that predict cluster units.
        mixing_probability (`float`): share of the recordings that another one is mixed into, in [0, 1]: WavLM's
            denoising, see [`hf_ssl.data.mixing`]; .2 in the paper.
        language_column (`str`, *optional*): column with the language, for the next one.
        sampling_alpha (`float`): α in [0, 1]: languages are drawn in proportion to the power α of their seconds of
            speech, see [`hf_ssl.data.multilingual`]; .5 in XLSR-53.
    """

    audio_column: str = "audio"
    text_column: str | None = "text"
    text_unit: str = "characters"
    normalise_text: bool = True
    sampling_rate: int = 16_000
    min_seconds: float = 0.4
    max_seconds: float = 15.6
    units: str | None = None
    mixing_probability: float = 0.0
    language_column: str | None = None
    sampling_alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mixing_probability", "sampling_alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"data.{name} is {getattr(self, name)}; give a number between 0 and 1.")
        if self.text_unit not in TEXT_UNITS:
            raise unknown_name("unit of transcripts (data.text_unit)", self.text_unit, TEXT_UNITS)
        if not 0 < self.min_seconds <= self.max_seconds:
            raise InputError(
                f"data.min_seconds is {self.min_seconds} and data.max_seconds {self.max_seconds}; "
                "0 < min <= max is needed."
            )


@dataclass(kw_only=True)
class TextDataArguments(DataArguments):
    """Texts, and how they are cut into training sequences.

    Args:
        text_column (`str`): column with the texts, one document a row.
        tokenizer (`str`, *optional*): a tokenizer's Hub name or folder, or `"wordpiece"`, `"bpe"` or `"unigram"` to
            train one on the training data; by default the tokenizer of the encoder that the run starts from.
        vocab_size (`int`): of a trained tokenizer.
        lowercase (`bool`): whether a trained tokenizer lower-cases and strips accents.
        max_length (`int`): tokens of a sequence, special ones included.
        sentences (`str`): what ends a sentence in a document: `"punctuation"` (and a blank line) in running text, or
            `"lines"`, where each sentence has its own.
        next_sentence (`bool`): sequences are pairs of segments for next-sentence prediction; otherwise runs of full
            sentences.
        short_sequence_probability (`float`): share of pairs aimed at a random shorter length.
        duplicates (`int`): how many times the corpus is cut into pairs, each time differently.
        dynamic_masking (`bool`): draw new masks each epoch; otherwise each sequence keeps its mask.
    """

    text_column: str = "text"
    tokenizer: str | None = None
    vocab_size: int = 30_522
    lowercase: bool = True
    max_length: int = 128
    sentences: str = "punctuation"
    next_sentence: bool = True
    short_sequence_probability: float = 0.1
    duplicates: int = 1
    dynamic_masking: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sentences not in ("lines", "punctuation"):
            raise unknown_name("way to find sentences (data.sentences)", self.sentences, ("lines", "punctuation"))
        if self.max_length < 8:
            raise InputError(f"data.max_length is {self.max_length}; a sequence needs at least 8 tokens.")


DATA_ARGUMENTS: dict[str, type[DataArguments]] = {
    "vision": ImageDataArguments,
    "speech": SpeechDataArguments,
    "text": TextDataArguments,
}
