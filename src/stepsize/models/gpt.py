"""The decoder-only transformer of GPT-2."""

import math
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn


class GPT(nn.Module):
    """A causal transformer that gives, at each position, logits of the token that comes next.

        h = dropout(token_embedding[tokens] + position_embedding[0..T-1])
        h = h + attention(norm(h))            in each of num_layers blocks
        h = h + mlp(norm(h))
        logits = norm(h) token_embeddingᵀ

    This is GPT-2 (A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019,
    https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf) with its
    biases, its tanh form of GELU, and its tied output: num_layers=12, num_heads=12, width=768 with a vocabulary of
    50257 and a context of 1024 has its 124.4 million parameters. Weights start at N(0, 0.02²), biases at 0, and the two
    projections of each block that write into the residual stream at N(0, 0.02² / (2 num_layers)), so that the stream's
    variance does not grow with depth. Tied weights: O. Press and L. Wolf, "Using the Output Embedding to Improve
    Language Models", 2016, https://arxiv.org/abs/1608.05859.

    Args:
        input_shape: (T,), the longest context in tokens; a shorter input works.
        num_classes: size of the vocabulary, at least 1.
        num_layers: blocks, at least 1.
        num_heads: attention heads in each block; divides `width`.
        width: features of the residual stream; the hidden layer of each MLP is 4 times as wide.
        dropout: probability in [0, 1) of dropping an embedding, an attention weight or a residual in training.

    Raises:
        ValueError: `input_shape` is not one length; a size is less than 1; `num_heads` does not divide `width`;
            `dropout` is outside [0, 1).
    """

    accepts: ClassVar[Literal["values", "tokens"]] = "tokens"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        num_layers: int = 4,
        num_heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        if len(input_shape) != 1 or input_shape[0] < 1:
            raise ValueError(f"input_shape must be (context,), at least 1 token, got {tuple(input_shape)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        if num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {num_heads}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")

        super().__init__()
        self.embedding = _Embedding(input_shape[0], num_classes, width, dropout)
        self.blocks = nn.ModuleList(_Block(num_heads, width, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

        residual_std = 0.02 / math.sqrt(2 * num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "mlp.output.weight")):
                nn.init.normal_(parameter, std=residual_std)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits, (B, T, num_classes), of integer tokens (B, T).

        Raises:
            ValueError: T is longer than the context.
        """
        hidden: Tensor = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return F.linear(self.norm(hidden), self.embedding.tokens.weight)


class _Embedding(nn.Module):
    """The sum of what a token is and where it stands: (B, T) to (B, T, width)."""

    def __init__(self, context: int, vocabulary: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.positions.num_embeddings:
            raise ValueError(f"the input is {length} tokens long, the context only {self.positions.num_embeddings}")
        out: Tensor = self.dropout(self.tokens(tokens) + self.positions.weight[:length])
        return out


class _Block(nn.Module):
    """Attention, then an MLP, each on the normalised stream and added to it."""

    def __init__(self, num_heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _Attention(num_heads, width, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = _FeedForward(width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class _Attention(nn.Module):
    """Each position reads from itself and the positions before it: (B, T, width) to the same.

    Query, key and value are matrices of their own where GPT-2 stacks the three in one: the function is the same, and an
    optimizer that works on whole matrices does better on each alone (K. Jordan et al., "Muon: An optimizer for hidden
    layers in neural networks", 2024, https://kellerjordan.github.io/posts/muon/).
    """

    def __init__(self, num_heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # (B, T, width) -> (B, heads, T, width / heads)
        query, key, value = (
            projection(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        dropout = self.dropout.p if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        out: Tensor = self.dropout(self.output(read.transpose(1, 2).flatten(2)))
        return out


class _FeedForward(nn.Module):
    """One hidden layer, 4 times as wide, at each position alone: (B, T, width) to the same."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.activation = nn.GELU(approximate="tanh")
        self.output = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.output(self.activation(self.hidden(x))))
        return out
