import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raysearch.errors import SpecError
from raysearch.modalities.text.tokenizer import TaskTokenizer, make_tokenizer, train_word_pieces


def test_word_pieces_are_equal_in_two_processes() -> None:
    program = (
        "from raysearch.modalities.text.tokenizer import train_word_pieces as t\n"
        "texts = [f'{a}{b} {b}{c}! caf\\u00e9' for a in 'abcdef' for b in 'ghijkl' for c in 'mnop']\n"
        "print(t(texts, 120).to_str() == t(reversed(texts), 120).to_str(), t(texts, 120).to_str())"
    )
    run = [sys.executable, "-c", program]
    one, other = (subprocess.run(run, check=True, capture_output=True, text=True).stdout for _ in range(2))
    assert one.startswith("True ")
    assert one == other


def test_word_pieces_stay_within_size_and_cover_the_text() -> None:
    texts = ["Machines learn what the data say.", "The DATA say little; machines guess."]
    tokenizer = train_word_pieces(texts, 80)
    assert tokenizer.get_vocab_size() <= 80
    for text in texts:
        assert "[UNK]" not in tokenizer.encode(text).tokens


CHINESE = [
    "今天天气很好。我们去公园散步。" + "".join(chr(0x4E00 + (i * j * 37) % 3000) for j in range(1, 30))
    for i in range(60)
]
HINDI = ["यह फिल्म बहुत अच्छी थी और मुझे पसंद आई", "मुझे यह किताब अच्छी नहीं लगी"] * 20
VIETNAMESE = ["Tôi không thích bộ phim này vì nó quá dài và nhàm chán"] * 20
RUSSIAN = ["Фильм был очень хорошим и понравился мне", "какой же скучной оказалась книга"] * 20
THAI = ["ฉันชอบดูหนังเรื่องนี้มากที่สุด"] * 20
DNA = ["".join("ACGT"[(i * j) % 4] for j in range(1, 300)) for i in range(1, 40)]
EMOJI = [f"great {chr(0x1F600 + i)}{chr(0x1F600 + i // 2)} film {chr(0x1F400 + i)}" for i in range(300)]
SCRIPTS = {"zh": CHINESE, "hi": HINDI, "vi": VIETNAMESE, "th": THAI, "dna": DNA, "emoji": EMOJI, "ru": RUSSIAN}


def made_tokenizer(folder: Path, texts: list[str], size: int = 1024) -> TaskTokenizer:
    return make_tokenizer({"config": {"model_type": "bert", "vocab_size": size}}, texts, folder)


@pytest.mark.parametrize("script", SCRIPTS)
def test_make_tokenizer_loses_no_character_of_a_script(tmp_path: Path, script: str) -> None:
    texts = SCRIPTS[script]
    tokenizer = made_tokenizer(tmp_path, texts)
    assert "pairs of bytes" in tokenizer.notes[0]
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    for text in [*texts[:5], "unseen: Ж ☃ ක"]:
        ids = tokenizer.encode([text])[0].tolist()
        assert tokenizer.unknown not in ids
        assert loaded(text)["input_ids"] == ids
        decoded = tokenizer.tokenizer.decode(ids)
        assert decoded == unicodedata.normalize("NFC", text).lower()
        assert (ids[0], ids[-1]) == (tokenizer.tokens["cls"], tokenizer.tokens["sep"])
    assert tokenizer.tokens["vocab_size"] <= 1024


@pytest.mark.parametrize(
    "texts",
    [
        ["Machines learn what the data say.", "The café of the naïve garçon is not far from here at all."],
        ["영화가 정말 재미있었다", "책은 지루했다"],
    ],
)
def test_make_tokenizer_keeps_word_pieces_where_they_fit(tmp_path: Path, texts: list[str]) -> None:
    tokenizer = made_tokenizer(tmp_path, texts * 20)
    assert tokenizer.notes == ()
    assert tokenizer.tokenizer.to_str() == _task_tokenizer_of(train_word_pieces(texts * 20, 1024))


def _task_tokenizer_of(tokenizer: Tokenizer) -> str:
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(512)
    return tokenizer.to_str()


def test_make_tokenizer_too_small_for_bytes_says_what_is_lost(tmp_path: Path) -> None:
    (note,) = made_tokenizer(tmp_path, CHINESE, size=300).notes
    assert "a vocab_size of at least 512 covers every character" in note
    share = float(note.split("loses ")[1].split("%")[0])
    assert 40 < share < 100


def test_byte_pairs_are_equal_in_two_processes() -> None:
    program = (
        "from raysearch.modalities.text.byte_pairs import train_byte_pairs as t\n"
        "from raysearch.modalities.text.tokenizer import SPECIAL\n"
        "texts = [f'{a}{b} {b}{c}! caf\\u00e9 \\u4eca\\u5929' for a in 'abcdef' for b in 'ghijkl' for c in 'mnop']\n"
        "print(t(texts, 600, SPECIAL).to_str() == t(texts[::-1], 600, SPECIAL).to_str())\n"
        "print(t(texts, 600, SPECIAL).to_str())"
    )
    run = [sys.executable, "-c", program]
    one, other = (subprocess.run(run, check=True, capture_output=True, text=True).stdout for _ in range(2))
    assert one.startswith("True\n")
    assert one == other


@pytest.mark.parametrize("text", ["x" * 1_000_000, "好" * 300_000, "ab " * 300_000, "\u0301" * 300_000], ids=range(4))
def test_tokenizer_of_a_megabyte_of_text_takes_seconds(tmp_path: Path, text: str) -> None:
    start = time.process_time()
    tokenizer = made_tokenizer(tmp_path, ["some words of usual length"] * 50 + [text])
    tokens, offsets = tokenizer.encode(["usual", text])
    assert time.process_time() - start < 20
    assert 2 < offsets[-1] - offsets[-2] <= 512
    assert len(tokens) == offsets[-1]


def test_tokenizer_without_an_unknown_token_is_one_line(tmp_path: Path) -> None:
    pieces = {token: i for i, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(str(tmp_path / "model"))
    made = make_tokenizer({"path": str(tmp_path / "model")}, [], tmp_path / "data")
    with pytest.raises(SpecError, match=r"^model: the tokenizer of .*model cannot encode the texts: WordPiece error"):
        made.encode(["ab", "z"])
