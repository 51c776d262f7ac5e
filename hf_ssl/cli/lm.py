"""`hf-ssl lm`: an n-gram language model from text."""

import argparse
from typing import Any

from hf_ssl.cli.evaluate import positive
from hf_ssl.data.transcripts import TranscriptForm
from hf_ssl.evaluation.recognition.corpus import UNITS, Corpus, read_sentences
from hf_ssl.evaluation.recognition.kneser_ney import estimate
from hf_ssl.evaluation.recognition.ngram import Perplexity, perplexity

DESCRIPTION = """\
Estimate an n-gram language model with modified interpolated Kneser-Ney smoothing and write it as an ARPA file, which
`hf-ssl recognise --lm`, KenLM and others read. Text is brought into the form of transcripts: lower-case letters, all
else separates words.
"""

EPILOG = """\
examples:
  hf-ssl lm --text transcripts.txt books.txt --output lm.arpa --held-out validation.txt
  hf-ssl lm --text books.txt --order 3 --prune 0 0 1 --output small.arpa       leaves out trigrams that occur once
  hf-ssl lm --text transcripts.txt --unit letters --order 6 --output letters.arpa

KenLM as flashlight-text brings it reads orders up to 6. Never use the transcripts of the recordings that are tested.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "lm",
        help="build an n-gram language model from text, for recognise",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE", help="UTF-8 text, a sentence a line")
    parser.add_argument("--output", required=True, metavar="FILE", help="the ARPA file to write")
    parser.add_argument(
        "--order", type=positive, default=4, metavar="N", help="words that an n-gram has (default: %(default)s)"
    )
    parser.add_argument(
        "--unit",
        choices=UNITS,
        default="words",
        help="what is predicted: words (default), letters for --decoder letters, or the phones of a text of phones",
    )
    parser.add_argument(
        "--as-is", action="store_true", help="keep capitals, digits and punctuation (data.normalise_text=false)"
    )
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="leave out n-grams that occur at most so often: a number an order, the first 0 (default: none)",
    )
    parser.add_argument("--held-out", nargs="+", metavar="FILE", help="other text, whose perplexity is printed, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Build and print what was built."""
    form = TranscriptForm(unit="phones") if args.unit == "phones" else TranscriptForm(normalise=not args.as_is)
    corpus = Corpus.of(read_sentences(args.text, form), args.unit)
    model = estimate(corpus, args.order, args.prune)
    model.save(args.output)
    counts = ", ".join(f"{len(level.keys):,} {k}-grams" for k, level in enumerate(model.levels, start=1))
    print(f"{args.output}: {counts}")
    print(f"text: {described(perplexity(model, corpus), args.unit)}")
    if args.held_out:
        held_out = Corpus.in_words(read_sentences(args.held_out, form), corpus.words, args.unit)
        print(f"held-out: {described(perplexity(model, held_out), args.unit)}")


def described(result: Perplexity, unit: str) -> str:
    """A perplexity in a line."""
    line = (
        f"perplexity {result.value:.2f} over {result.num_tokens - result.num_unknown:,} {unit} and ends of sentences"
    )
    if not result.num_unknown:
        return line
    share = result.num_unknown / result.num_tokens
    return f"{line}; {result.num_unknown:,} more ({share:.2%}) are unknown, with them {result.with_unknown:.2f}"
