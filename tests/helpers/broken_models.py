"""Folders of tiny models that cannot be used, each broken in one way, and one that can."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

logging.disable_progress_bar()

WIDTH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = ["apple", "pear", "plum", "iron", "copper", "zinc", "bank", "flood", "ford", "the", "of", "was", "in"]


def save_tokenizer(folder: Path, *, pad: int = 0, words: int = 60) -> None:
    """A tokenizer of whole words, with its special tokens; the pad token has the id `pad`."""
    specials = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    specials.insert(pad, "[PAD]")
    tokens = [*specials, *WORDS, *(f"word{i}" for i in range(words - len(WORDS) - len(specials)))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name.strip('[]').lower()}_token": name for name in specials}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def save_encoder(folder: Path, kind: str = "bert", **fields: Any) -> None:
    """A randomly initialised encoder with a tokenizer that fits."""
    config = AutoConfig.for_model(kind, **{**WIDTH, "vocab_size": 64, "max_position_embeddings": 40, **fields})
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, pad=1 if kind == "roberta" else 0)


def save_classifier(folder: Path, labels: int) -> None:
    config = AutoConfig.for_model("bert", **WIDTH, vocab_size=64, max_position_embeddings=40, num_labels=labels)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)


def edit_config(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def without_weights_of(folder: Path, part: str) -> None:
    file = folder / "model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if part not in name}, file, {"format": "pt"})


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def no_tokenizer(folder: Path) -> None:
    save_encoder(folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()


def too_many_tokens(folder: Path) -> None:
    save_encoder(folder)
    save_tokenizer(folder, words=90)


def heads_do_not_divide(folder: Path) -> None:
    save_encoder(folder)
    edit_config(folder, num_attention_heads=3)


def few_positions(folder: Path) -> None:
    save_encoder(folder, "roberta", max_position_embeddings=33)


def other_pad_id(folder: Path) -> None:
    save_encoder(folder, "roberta")
    save_tokenizer(folder, pad=0)


def missing_weights(folder: Path) -> None:
    save_encoder(folder)
    without_weights_of(folder, "attention")


def damaged_weights(folder: Path) -> None:
    save_encoder(folder)
    cut(folder / "model.safetensors", 0.8)


def no_header(folder: Path) -> None:
    save_encoder(folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def no_weights(folder: Path) -> None:
    save_encoder(folder)
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    save_encoder(folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_config(folder: Path) -> None:
    save_encoder(folder / "inner")


def adapter_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


def damaged_tokenizer(folder: Path) -> None:
    save_encoder(folder)
    cut(folder / "tokenizer.json", 0.5)


def other_labels(folder: Path) -> None:
    save_classifier(folder, 5)


def other_architecture(folder: Path) -> None:
    """A decoder, which takes no attention mask per pair of positions that BERT's style of masks gives."""
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=64, pad_token_id=0)
    AutoModel.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)


def vit_of_another_size(folder: Path) -> None:
    config = AutoConfig.for_model("vit", **WIDTH, image_size=32, patch_size=8, num_labels=10)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)


def pickled(folder: Path) -> None:
    """Weights as torch.save writes them, which can be used."""
    save_encoder(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


Maker = Callable[[Path], None]

# what is broken -> how its folder is made, and words of the line that refuses it; the first are found without torch
IN_FILES: dict[Maker, str] = {
    no_tokenizer: "has no tokenizer (tokenizer.json), without which every word is unknown",
    too_many_tokens: "the tokenizer has tokens up to id 89, and the encoder has embeddings for 64",
    heads_do_not_divide: "hidden_size 16 is not divisible by num_attention_heads 3; heads that fit: 1, 2, 4",
    few_positions: "the encoder can read 31 tokens, and max_length is 32; set max_length: 31",
    other_pad_id: 'the tokenizer pads with "[PAD]", id 0, and config.json has pad_token_id 1',
    damaged_weights: "model.safetensors is damaged: it has",
    no_header: "is damaged: it has no header of safetensors (it is a pointer of Git LFS: run git lfs pull)",
    no_weights: "has no weights (model.safetensors)",
    missing_shard: "model-00001-of-00002.safetensors is missing, and the index of the weights names it",
    no_config: "has no config.json, so it holds no model of transformers; its folder inner has one",
    adapter_alone: "holds an adapter without its encoder",
    damaged_tokenizer: "tokenizer.json is damaged: it has no vocabulary",
}
ON_TRIAL: dict[Maker, str] = {
    missing_weights: "has no weights for 10 parameters of the encoder, such as ",
    other_labels: "holds a classifier of 5 labels, and the task has 3; pooling: first puts a new head on its encoder",
    other_architecture: "GPT2ForSequenceClassification (model_type 'gpt2') cannot be used: it takes no attention mask",
}


def fresh(make: Callable[[Path], None], folder: Path) -> Path:
    """The folder of that model, made from scratch."""
    shutil.rmtree(folder, ignore_errors=True)
    make(folder)
    return folder
