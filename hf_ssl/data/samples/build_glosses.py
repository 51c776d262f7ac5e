"""Samples `glosses` and `wordnet_documents`: WordNet's definitions with their class, and as documents."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, Value

from hf_ssl.data.holdout import name_hash
from hf_ssl.data.samples.splits import assign_splits, connected_groups

# lexnames(5WN), in the order of the file numbers.
# fmt: off
LEXICOGRAPHER_FILES = [
    "adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact",
    "noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling",
    "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object", "noun.person",
    "noun.phenomenon", "noun.plant", "noun.possession", "noun.process", "noun.quantity", "noun.relation",
    "noun.shape", "noun.state", "noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition",
    "verb.communication", "verb.competition", "verb.consumption", "verb.contact", "verb.creation",
    "verb.emotion", "verb.motion", "verb.perception", "verb.possession", "verb.social", "verb.stative",
    "verb.weather", "adj.ppl",
]
# fmt: on
PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
# Which pointers lead to a synset's parent: hypernym, instance hypernym, noun of a pertainym or adjective of an adverb,
# verb of a participle; for the satellites of an adjective cluster (type `s`) also the one to its head.
PARENT_POINTERS = {"@", "@i", "\\", "<"}
DOCUMENT_SYNSETS = 12  # a document is closed when it has so many
MIN_DOCUMENT_SYNSETS = 4
CLASS_SYNSETS = 1000  # no further document is taken for the sake of a class that has so many


@dataclass
class Synset:
    """One meaning: `word` is its first lemma, `parent` the id of the next more general one."""

    id: str
    label: str
    word: str
    definition: str
    examples: list[str]
    parent: str | None
    children: list["Synset"] = field(default_factory=list)


def build(packages: Path) -> tuple[dict[str, list[dict[str, Any]]], Features]:
    """One definition a row, in the order of the documents.

    Args:
        packages: folder with the unpacked packages.

    Returns:
        the rows of each split, and their features.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for split, name, synsets in select_documents(packages):
        for s in synsets:
            rows[split].append(
                {"text": s.definition, "label": s.label, "word": s.word, "synset": s.id, "document": name}
            )
    features = {"text": Value("string"), "label": ClassLabel(names=LEXICOGRAPHER_FILES), "word": Value("string")}
    return rows, Features({**features, "synset": Value("string"), "document": Value("string")})


def build_documents(packages: Path) -> tuple[dict[str, list[dict[str, Any]]], Features]:
    """One document a row, one sentence a line: for each synset `word: definition`, then its examples.

    Args:
        packages: folder with the unpacked packages.

    Returns:
        the rows of each split, and their features.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for split, name, synsets in select_documents(packages):
        lines = [line for s in synsets for line in (f"{s.word}: {s.definition}", *s.examples)]
        rows[split].append({"text": "\n".join(lines), "document": name})
    return rows, Features({"text": Value("string"), "document": Value("string")})


def select_documents(packages: Path) -> Iterator[tuple[str, str, list[Synset]]]:
    """Cuts WordNet's hierarchy into documents and takes as many as give each class about `CLASS_SYNSETS` definitions.

    Yields:
        (split, name, synsets) of each document. No definition is in two splits.
    """
    documents = {synsets[0].id: synsets for synsets in grow_documents(read_synsets(packages / "wordnet-base"))}
    num_synsets: dict[str, int] = defaultdict(int)
    for synsets in documents.values():
        for synset in synsets:
            num_synsets[synset.label] += 1
    # A document counts for the rarest of its classes, and rare classes choose first.
    stratum = {
        name: min((s.label for s in synsets), key=lambda label: num_synsets[label])
        for name, synsets in documents.items()
    }
    taken: dict[str, int] = defaultdict(int)
    chosen = []
    for name in sorted(documents, key=lambda name: (num_synsets[stratum[name]], name_hash(name))):
        if taken[stratum[name]] < CLASS_SYNSETS:
            chosen.append(name)
            for synset in documents[name]:
                taken[synset.label] += 1
    # The same definition may stand at two synsets: their documents share a split.
    groups = connected_groups([[s.definition for s in documents[name]] for name in chosen])
    splits = assign_splits({f"group {g}": stratum[name] for g, name in zip(groups, chosen, strict=True)}, share=0.1)
    for group, name in sorted(zip(groups, chosen, strict=True), key=lambda item: name_hash(item[1])):
        yield splits[f"group {group}"], name, documents[name]


def grow_documents(synsets: dict[str, Synset]) -> Iterator[list[Synset]]:
    """Walks the hierarchy depth first and closes a document whenever enough synsets have come together.

    A document is a run of one branch, general to special. What remains of a branch goes on with its parent; what
    remains at a root is a document if it is not too small, and left out otherwise.
    """
    roots = []
    for synset in synsets.values():
        if synset.parent in synsets:
            synsets[synset.parent].children.append(synset)
        else:
            roots.append(synset)

    def grow(synset: Synset) -> Iterator[list[Synset]]:
        """Yields closed documents and, last, the open rest (perhaps empty)."""
        pending = [synset]
        for child in synset.children:
            *closed, rest = grow(child)
            yield from closed
            pending += rest
            if len(pending) >= DOCUMENT_SYNSETS:
                yield pending
                pending = []
        yield pending

    for root in roots:
        yield from (document for document in grow(root) if len(document) >= MIN_DOCUMENT_SYNSETS)


def read_synsets(package: Path) -> dict[str, Synset]:
    """All synsets of the database files (format: wndb(5WN)), by `<part of speech><offset>`."""
    synsets = {}
    for file_name, part in PARTS_OF_SPEECH.items():
        for line in (package / "usr/share/wordnet" / f"data.{file_name}").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):  # the licence
                synset = _parse(line, part)
                synsets[synset.id] = synset
    return synsets


def _parse(line: str, part: str) -> Synset:
    data, _, gloss = line.partition(" | ")
    offset, file_number, synset_type, num_words, *fields = data.split()
    parent_pointers = PARENT_POINTERS | {"&"} if synset_type == "s" else PARENT_POINTERS
    pointers = fields[2 * int(num_words, 16) + 1 :]
    parents = [
        ("a" if kind == "s" else kind) + target
        for symbol, target, kind in zip(pointers[0::4], pointers[1::4], pointers[2::4], strict=False)
        if symbol in parent_pointers
    ]
    definition, *examples = re.split(r'; (?=")', gloss.strip())
    return Synset(
        id=part + offset,
        label=LEXICOGRAPHER_FILES[int(file_number)],
        word=re.sub(r"\(\w+\)$", "", fields[0]).replace("_", " "),
        definition=definition,
        examples=[example.replace('"', "") for example in examples],
        parent=parents[0] if parents else None,
    )
