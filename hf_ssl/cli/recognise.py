"""`hf-ssl recognise`: recordings to text, with and without language models."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, Wav2Vec2Processor

from hf_ssl.cli.evaluate import positive
from hf_ssl.cli.run_file import build, command_line, read_run
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.hypothesis import DEFAULT_BEAM
from hf_ssl.evaluation.recognition.recognise import RecognitionResult, transcribe, transcribe_greedily
from hf_ssl.evaluation.recognition.recogniser import Recogniser
from hf_ssl.evaluation.recognition.rescoring import CausalLM
from hf_ssl.evaluation.recognition.settings import DECODERS, FILE, DecodingSettings
from hf_ssl.evaluation.recognition.tuning import best_of, choose
from hf_ssl.hub.environment import describe_hardware
from hf_ssl.trainers.finetuned import load_finetuned

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Transcribe a split of recordings with a CTC model (one that `hf-ssl finetune` left, or a published one) and print word
and character error rates with 95 % bootstrap intervals: of greedy decoding, and of the chosen decoder. Decoders that
read a language model have weights and a beam, which --tune chooses on validation recordings and keeps in
decoding.json beside the model; without --decoder, what is kept there is used.
"""

EPILOG = """\
examples:
  hf-ssl recognise runs/ctc --data my_recordings
  hf-ssl lm --text transcripts.txt --output lm.arpa
  hf-ssl recognise runs/ctc --data my_recordings --decoder words --lm lm.arpa --tune validation
  hf-ssl recognise runs/ctc --data other_recordings --output results.json       with what was tuned
  hf-ssl recognise runs/ctc --data recordings_alone --split train data.validation_split=null      prints transcripts
  hf-ssl recognise facebook/wav2vec2-base-960h --data my_recordings --decoder words --lm lm.arpa --rescore gpt2

decoders: greedy takes the most probable letter of each frame; words finds words of the lexicon, by default those of
the language model (hf-ssl lm); letters finds any letters or phones (hf-ssl lm --unit letters).
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "recognise",
        help="transcribe recordings with a CTC model and language models; error rates with intervals",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="output folder of `hf-ssl finetune` for model.task=ctc, or folder or Hub name")
    parser.add_argument("--data", required=True, metavar="PATH", help="sample:<name>, a folder, a file or a Hub name")
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument("--decoder", choices=DECODERS, help="default: as tuned, else greedy")
    parser.add_argument("--lm", metavar="FILE", help="n-gram model: ARPA (hf-ssl lm) or KenLM's binary format")
    parser.add_argument(
        "--lexicon", metavar="FILE", help="a word and its tokens a line (default: the words of --lm, spelled)"
    )
    parser.add_argument("--rescore", metavar="MODEL", help="causal language model that orders the n-best list anew")
    parser.add_argument("--tune", metavar="SPLIT", help="choose weights and beam on this split first: validation")
    parser.add_argument("--trials", type=positive, default=60, metavar="N", help="of weights (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the weights tried (default: 0)")
    for name, meaning in (
        ("lm-weight", "of ln P of the n-gram model; published ones for log10 are 2.3 times as large"),
        ("word-score", "added for each word, nats"),
        ("neural-weight", "of ln P of the --rescore model"),
    ):
        parser.add_argument(f"--{name}", type=float, metavar="X", help=meaning)
    parser.add_argument("--beam", type=positive, metavar="N", help=f"its size (default: {DEFAULT_BEAM.size})")
    parser.add_argument("--n-best", type=positive, default=50, metavar="N", help="texts rescored (default: 50)")
    parser.add_argument("--output", metavar="FILE", help="write everything as JSON, and the transcripts beside it")
    parser.add_argument(
        "overrides", nargs="*", metavar="data.KEY=VALUE", help="further data settings, e.g. data.text_column=sentence"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Tune if asked, transcribe, print the table."""
    if args.tune in (args.split, "test"):
        raise InputError(f"--tune {args.tune} would choose settings on what is tested; give --tune validation.")
    file = (Path(args.model) if Path(args.model).is_dir() else Path(args.output or "results.json").parent) / FILE
    settings = settings_of(args, file)
    values = {"path": args.data, **read_run(None, args.overrides, ["data"]).get("data", {})}
    data = build(SpeechDataArguments, values, "data")
    recogniser = load_recogniser(args.model)
    lm = None if settings.rescore is None else CausalLM.load(settings.rescore, recogniser.model.device)
    facts: dict[str, Any] = {"command": command_line(), "hardware": describe_hardware()}
    if args.tune:
        settings = tune(args, settings, recogniser, data, lm, file)
    heard = recogniser.hear(data, args.split)
    result = RecognitionResult(args.model, data.path, args.split, heard, transcribe_greedily(recogniser, heard))
    if settings.decoder != "greedy":
        decoder, lexicon = settings.make_decoder(recogniser.vocabulary)
        if lexicon is not None:
            facts |= {"lexicon_words": len(lexicon.spellings), "words_left_out": lexicon.left_out}
            report_left_out(lexicon.left_out)
        result.decoded = transcribe(recogniser, heard, settings, decoder, lm)
    result.facts = facts
    print(result.to_markdown())
    if args.output is not None:
        print(f"\nWritten: {args.output} and {result.save(Path(args.output))}")


def load_recogniser(address: str) -> Recogniser:
    """A CTC model with its processor, on a GPU if there is one.

    Raises:
        InputError: when there is none, or it is a model of something else.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        task = AutoConfig.from_pretrained(address).to_dict().get("finetuning_task")
        if task == "ctc":
            model, processor = load_finetuned(address)
            return Recogniser(model.to(device), processor)
        if task is not None:
            raise InputError(f"{address} was fine-tuned for {task}; give a model of model.task=ctc.")
        model = AutoModelForCTC.from_pretrained(address, dtype=torch.float32)
        # Not AutoProcessor, which for some models wants a decoder that transformers no longer keeps up.
        extractor = AutoFeatureExtractor.from_pretrained(address)
        processor = Wav2Vec2Processor(feature_extractor=extractor, tokenizer=AutoTokenizer.from_pretrained(address))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"No CTC model can be loaded from {address} ({reason}); check the name or folder.") from error
    return Recogniser(model.to(device), processor)


def settings_of(args: argparse.Namespace, file: Path) -> DecodingSettings:
    """The settings that the command line and the file of tuned ones give; the command line wins.

    Raises:
        InputError: for settings that do not go together.
    """
    kept = None if args.tune or not file.is_file() else DecodingSettings.load(file)
    base = kept or DecodingSettings()
    if args.decoder is not None and args.decoder != base.decoder:
        base = DecodingSettings()
    given = {name: absolute(getattr(args, name)) for name in ("lm", "lexicon", "rescore") if getattr(args, name)}
    numbers = {"ngram": args.lm_weight, "word": args.word_score}
    weights = {name: value for name, value in numbers.items() if value is not None}
    neural = {} if args.neural_weight is None else {"neural": args.neural_weight}
    num_best = args.n_best if given.get("rescore", base.rescore) else 1
    return replace(
        base,
        **given,
        decoder=args.decoder or base.decoder,
        weights=replace(base.weights, **weights),
        rescoring=replace(base.rescoring, **weights, **neural),
        beam=replace(base.beam, size=args.beam or base.beam.size, num_best=num_best),
    )


def absolute(name: str) -> str:
    """A file or folder from wherever the settings are read again; a Hub name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def tune(
    args: argparse.Namespace,
    settings: DecodingSettings,
    recogniser: Recogniser,
    data: SpeechDataArguments,
    lm: CausalLM | None,
    file: Path,
) -> DecodingSettings:
    """Choose weights and beam on validation recordings, and keep them with all that was tried."""
    heard = recogniser.hear(data, args.tune)
    settings, trials = choose(settings, recogniser, heard, lm, num_trials=args.trials, seed=args.seed)
    best = best_of(trials)
    tuned_on = {"data": data.path, "split": args.tune, "recordings": len(heard.scored), "seed": args.seed}
    settings.save(
        file,
        tuned_on=tuned_on,
        validation=best.rates,
        command=command_line(),
        trials=[trial.to_dict() for trial in trials],
    )
    found = ", ".join(f"{metric.upper()} {rate:.2%}" for metric, rate in best.rates.items())
    print(f"Tuned on {args.tune} ({len(heard.scored)} recordings, {len(trials)} trials): {found}; kept in {file}\n")
    return settings


def report_left_out(words: list[str]) -> None:
    """Say which words cannot be found because the model has not all of their letters."""
    if words:
        some = ", ".join(words[:10]) + (" ..." if len(words) > 10 else "")
        logger.warning("%d words cannot be found, since the model lacks letters of theirs: %s", len(words), some)
