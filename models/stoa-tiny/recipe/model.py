"""The Llama of the default model, small enough to read in one sitting.

Names of parameters are those of the Hugging Face `LlamaForCausalLM` layout, so that the state dict is the safetensors file.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    """The shape of the model; the defaults are the ones that ship."""

    vocab: int = 1024
    width: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 512
    context: int = 1024
    theta: float = 10000.0
    eps: float = 1e-5


# The shapes by the names of their models. The draft model guesses what the other will say.
SHAPES = {"stoa-tiny": Config(), "stoa-tiny-draft": Config(width=96, layers=2, heads=3, kv_heads=1, ffn=256)}


class RmsNorm(nn.Module):
    """Root mean square norm with a gain."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rope_tables(config):
    """Cosine and sine tables of the rotate-half form, one row per position."""
    half = config.head_dim // 2
    frequency = config.theta ** (-torch.arange(half).float() / half)
    angle = torch.arange(config.context).float()[:, None] * frequency[None]
    return torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)


def rotate(x, cos, sin):
    """Apply the rotation to `x` of shape batch, heads, positions, head_dim."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    """Causal attention with grouped key and value heads."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.width, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.width, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.width, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.width, bias=False)

    def forward(self, x, cos, sin, mask):
        c, (batch, length, _) = self.c, x.shape
        q = self.q_proj(x).view(batch, length, c.heads, c.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, c.kv_heads, c.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, c.kv_heads, c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = c.heads // c.kv_heads
        q = q.reshape(batch * c.kv_heads, group * length, c.head_dim)
        k, v = k.reshape(batch * c.kv_heads, length, -1), v.reshape(batch * c.kv_heads, length, -1)
        scores = torch.bmm(q, k.transpose(1, 2)).view(batch, c.heads, length, length)
        scores = scores.float() * c.head_dim**-0.5 + mask
        e = torch.exp(scores - scores.amax(-1, keepdim=True).detach())
        p = (e / e.sum(-1, keepdim=True)).to(v.dtype)
        y = torch.bmm(p.view(batch * c.kv_heads, group * length, length), v)
        y = y.view(batch, c.heads, length, c.head_dim)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    """The SwiGLU feed-forward block."""

    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.width, c.ffn, bias=False)
        self.up_proj = nn.Linear(c.width, c.ffn, bias=False)
        self.down_proj = nn.Linear(c.ffn, c.width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One block: attention, then feed-forward, each behind a norm."""

    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RmsNorm(c.width, c.eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RmsNorm(c.width, c.eps)
        self.mlp = Mlp(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embedding, blocks and last norm."""

    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab, c.width)
        self.layers = nn.ModuleList([Layer(c) for _ in range(c.layers)])
        self.norm = RmsNorm(c.width, c.eps)


class Llama(nn.Module):
    """A Llama with tied embeddings."""

    def __init__(self, c=None):
        super().__init__()
        self.c = c or Config()
        self.model = Backbone(self.c)
        cos, sin = rope_tables(self.c)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.register_buffer("past", torch.ones(self.c.context, self.c.context, dtype=torch.bool).tril(), persistent=False)
        deep = (2 * self.c.layers) ** -0.5
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.02 if "embed" in name else p.shape[1] ** -0.5
                nn.init.normal_(p, 0.0, std * (deep if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0))

    def hidden(self, tokens, segments=None):
        """Hidden states after the last norm. In packed rows a position sees its own segment only."""
        x = self.model.embed_tokens(tokens)
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        see = self.past[:length, :length]
        if segments is not None:
            see = see & (segments[:, None, :, None] == segments[:, None, None, :])
        mask = torch.where(see, 0.0, -1e4)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def logits(self, hidden):
        """Scores over the vocabulary, with the tied embedding as the output matrix."""
        return F.linear(hidden, self.model.embed_tokens.weight).float()

    def forward(self, tokens):
        return self.logits(self.hidden(tokens))
