"""Small models of many kinds in float64, each with a loss per example; the gradient engines are tested on them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, ViTConfig, ViTModel

EXAMPLES = 6


@dataclass
class ModelCase:
    """A model and the losses of its examples."""

    model: nn.Module
    losses: Callable[[Tensor], Tensor]  # numbers of examples -> the loss of each
    slow: frozenset[str] = frozenset()  # classes of modules without a gradient rule


SMALL = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def images(channels: int, size: int) -> Tensor:
    return torch.randn(EXAMPLES, channels, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def words(length: int, vocabulary: int) -> Tensor:
    return torch.randint(1, vocabulary, (EXAMPLES, length), generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def classifier_case(model: nn.Module, inputs: Tensor, slow: frozenset[str] = frozenset()) -> ModelCase:
    model.double()
    return ModelCase(model, lambda i: F.cross_entropy(model(inputs[i]), LABELS[i], reduction="none"), slow)


class Encoder(nn.Module):
    """A Hugging Face encoder with a linear layer on its first position."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.top = body, nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.top(self.body(inputs).last_hidden_state[:, 0])


def bert(attention: str) -> ModelCase:
    config = BertConfig(
        vocab_size=40,
        num_hidden_layers=2,
        max_position_embeddings=12,
        attn_implementation=attention,
        **SMALL,
    )
    return classifier_case(Encoder(BertModel(config, add_pooling_layer=False), 16), words(9, 40))


def checkpointed() -> ModelCase:
    model_case = bert("sdpa")
    model_case.model.body.activation_checkpointing_enable({"use_reentrant": False})
    return model_case


def albert() -> ModelCase:
    """An encoder that uses one layer's weights twice."""
    config = AlbertConfig(
        vocab_size=40,
        embedding_size=8,
        num_hidden_layers=2,
        max_position_embeddings=12,
        **SMALL,
    )
    return classifier_case(Encoder(AlbertModel(config, add_pooling_layer=False), 16), words(9, 40))


def vit() -> ModelCase:
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=2,
        num_hidden_layers=1,
        **SMALL,
    )
    return classifier_case(
        Encoder(ViTModel(config, add_pooling_layer=False), 16), images(2, 8), frozenset({"ViTEmbeddings"})
    )


class TiedLanguageModel(nn.Module):
    """A language model whose decoder is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(30, 12, padding_idx=0), nn.Linear(12, 12)
        self.decode = nn.Linear(12, 30, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.mix(self.embed(tokens))))


def tied() -> ModelCase:
    model, tokens = TiedLanguageModel().double(), words(7, 30)
    tokens[:, -2:] = 0

    def losses(examples: Tensor) -> Tensor:
        logits = model(tokens[examples])[:, :-1]
        return F.cross_entropy(logits.transpose(1, 2), tokens[examples, 1:], reduction="none").sum(1)

    return ModelCase(model, losses)


def mlp() -> ModelCase:
    inputs = images(1, 5).flatten(1)
    return classifier_case(
        nn.Sequential(nn.Linear(25, 30), nn.ReLU(inplace=True), nn.Linear(30, 3, bias=False)), inputs
    )


def convolutions() -> ModelCase:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2, padding=2),
        nn.Conv2d(8, 12, 1, groups=2, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(12),
        nn.Linear(12, 3),
    )
    return classifier_case(model, images(3, 8))


def one_dimension() -> ModelCase:
    model = nn.Sequential(
        nn.Embedding(40, 6),
        Transposed(),
        nn.Conv1d(6, 9, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(9, 3),
    )
    return classifier_case(model, words(9, 40))


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def frozen_batch_norm() -> ModelCase:
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)).double()
    model(images(3, 6) * 2 + 1)  # sets the running statistics
    model.eval()
    return classifier_case(model, images(3, 6))


class LastOutput(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]


def lstm() -> ModelCase:
    model = nn.Sequential(nn.Embedding(40, 6), LastOutput(nn.LSTM(6, 8, batch_first=True)), nn.Linear(8, 3))
    return classifier_case(model, words(5, 40), frozenset({"LSTM"}))


class AttentionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.scale = nn.MultiheadAttention(6, 2, batch_first=True), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return (self.attention(x, x, x, need_weights=False)[0] * self.scale).mean(1)


def attention() -> ModelCase:
    """torch's attention, which uses a child's weight without calling the child, and a parameter of a plain module."""
    model = nn.Sequential(nn.Embedding(40, 6), AttentionBlock(), nn.Linear(6, 3))
    return classifier_case(model, words(5, 40), frozenset({"MultiheadAttention", "AttentionBlock"}))


class LowRankLinear(nn.Module):
    """A linear layer with a frozen weight and a trained low-rank update (LoRA, Hu et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(outputs, inputs) / inputs**0.5)
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + 2.0 * self.up(self.down(x))


def adapters() -> ModelCase:
    layers = [LowRankLinear(6, 10, 2), nn.GELU(), LowRankLinear(10, 6, 2)]
    return classifier_case(
        nn.Sequential(nn.Embedding(40, 6), *layers, MeanOverPositions(), nn.Linear(6, 3)), words(5, 40)
    )


class MeanOverPositions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


MODEL_ZOO: dict[str, Callable[[], ModelCase]] = {
    "bert_eager": lambda: bert("eager"),
    "bert_sdpa": lambda: bert("sdpa"),
    "checkpointed": checkpointed,
    "shared_layers": albert,
    "vision_transformer": vit,
    "tied_embeddings": tied,
    "mlp": mlp,
    "convolutions": convolutions,
    "one_dimension": one_dimension,
    "frozen_batch_norm": frozen_batch_norm,
    "lstm": lstm,
    "attention": attention,
    "low_rank_adapters": adapters,
}
