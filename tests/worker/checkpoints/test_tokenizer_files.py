"""Tokenizers that have no tokenizer.json are read from the files that their classes have, and written again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer

from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.planning.tokenizer_checks import VOCABULARIES
from service.sources.model_files import is_wanted
from tests.support.tiny_models import TINY, bart
from worker.checkpoints.loading import load_model
from worker.checkpoints.saving import save_model
from worker.data.tokenising import TOKENISE
from worker.data.wordings import wording

TEXTS = ["good film: positive", "bad plot: negative", "a quick lazy dog and a fox"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film", "##s", ":", "bad"]
T5_IDS: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
FAIRSEQ_IDS: dict[str, Any] = {"bos_id": 0, "eos_id": 1, "unk_id": 2, "pad_id": -1}


def sentences(path: Path, texts: list[str], size: int = 60, **ids: Any) -> list[str]:
    """Train a SentencePiece model and write it to the path; its pieces."""
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 50),
        model_prefix=str(path.with_suffix("")),
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    path.with_suffix(".model").rename(path)
    return [line.split("\t")[0] for line in path.with_suffix(".vocab").read_text().splitlines()]


def one_model(name: str, **ids: Any) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        sentences(directory / name, TEXTS, **ids)
        (directory / name).with_suffix(".vocab").unlink()

    return write


def m2m(directory: Path) -> None:
    pieces = sentences(directory / "sentencepiece.bpe.model", TEXTS, **FAIRSEQ_IDS)
    pieces[:3] = ["<s>", "<pad>", "</s>", "<unk>"]
    (directory / "sentencepiece.bpe.vocab").unlink()
    (directory / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))


def marian(directory: Path) -> None:
    """Source and target are split in other ways: the target's model has seen whole words of the answers alone."""
    pieces = ["</s>", "<unk>"]
    for name, texts in (("source.spm", TEXTS), ("target.spm", ["positive", "negative"])):
        pieces += sentences(directory / name, texts, size=60 if name == "source.spm" else 24)
        (directory / name).with_suffix(".vocab").unlink()
    numbers = {piece: number for number, piece in enumerate([*dict.fromkeys(pieces), "<pad>"])}
    (directory / "vocab.json").write_text(json.dumps(numbers))


def word_pieces(directory: Path) -> None:
    (directory / "vocab.txt").write_text("\n".join(WORDS))


# Tiny model -> class of the tokenizer, and its own files.
FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "xlm-roberta": ("XLMRobertaTokenizer", one_model("sentencepiece.bpe.model", **FAIRSEQ_IDS)),
    "electra": ("BertTokenizer", word_pieces),
    "deberta-v2": ("DebertaV2Tokenizer", one_model("spm.model", pad_id=0, bos_id=1, eos_id=2, unk_id=3)),
    "mbart": ("MBart50Tokenizer", one_model("sentencepiece.bpe.model", **FAIRSEQ_IDS)),
    "pegasus": ("PegasusTokenizer", one_model("spiece.model", **T5_IDS)),
    "m2m_100": ("M2M100Tokenizer", m2m),
    "marian": ("MarianTokenizer", marian),
}


def write(directory: Path, name: str) -> None:
    """Save a tiny model with the tokenizer that its family has."""
    TINY[name]().save_pretrained(directory)
    kind, files = FILES[name]
    files(directory)
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("name", FILES)
def test_a_tokenizer_is_read_from_its_own_files_and_written_again(name: str, tmp_path: Path) -> None:
    write(tmp_path / "model", name)
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert all(map(is_wanted, files))
    assert files & VOCABULARIES
    loaded = load_model(tmp_path / "model", device=torch.device("cpu"))
    assert type(loaded.tokenizer).__name__ == FILES[name][0]
    save_model(loaded, tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    ids = loaded.tokenizer("good film: bad").input_ids
    assert again("good film: bad").input_ids == ids
    assert loaded.tokenizer.unk_token_id not in ids
    assert len(set(ids)) > 3


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("separate", [False, True])
def test_the_answers_of_a_marian_are_read_as_its_target_language(separate: bool, tmp_path: Path) -> None:
    marian(tmp_path)
    numbers: dict[str, int] = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "MarianTokenizer", "separate_vocabs": separate})
    )
    if separate:
        numbers = {piece: number for number, piece in enumerate(reversed(numbers))}
        (tmp_path / "target_vocab.json").write_text(json.dumps(numbers))
    config = bart("marian", share_encoder_decoder_embeddings=not separate, decoder_vocab_size=len(numbers)).config
    labels = {"1": "positive", "0": "negative"}
    task = Task.model_validate({"template": "{text}", "labels": labels, "calibration": {"rows": [{"text": "a"}] * 2}})
    asked = wording("encoder_decoder", resolve(task), AutoTokenizer.from_pretrained(tmp_path), config)
    prompt, answers = TOKENISE["encoder_decoder"]("good film", list(labels.values()), asked)
    target = SentencePieceProcessor(str(tmp_path / "target.spm"))
    assert [list(answer) for answer in answers] == [
        [numbers[piece] for piece in target.encode(word, out_type=str)] for word in labels.values()
    ]
    assert list(prompt) == asked.tokenizer("good film").input_ids
    assert asked.answer_vocabulary == (len(numbers) if separate else config.vocab_size)
