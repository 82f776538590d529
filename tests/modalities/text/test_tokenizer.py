import subprocess
import sys

from raysearch.modalities.text.tokenizer import train_word_pieces


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
