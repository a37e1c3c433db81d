"""Write the files that ship from a checkpoint: Q8_0 GGUF, F16 safetensors, config.json, tokenizer_config.json."""

import argparse
import hashlib
import json
import os

import torch
from safetensors.torch import save_file

import gguf
from model import SHAPES, Llama

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
BOS, END = "<|bos|>", "<|end|>"


def interleave(weight, heads):
    """Rows of each head from the rotate-half order to pairs side by side, the order that GGUF keeps."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def tensors(state, c):
    """Names, arrays and types of the GGUF tensors. Without `output.weight` the embedding is the output matrix."""
    yield "token_embd.weight", state["model.embed_tokens.weight"].numpy(), gguf.Q8_0
    for layer in range(c.layers):
        for theirs, ours in NAMES.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            if theirs.endswith("q_proj"):
                weight = interleave(weight, c.heads)
            if theirs.endswith("k_proj"):
                weight = interleave(weight, c.kv_heads)
            yield f"blk.{layer}.{ours}.weight", weight.numpy(), gguf.F32 if weight.dim() == 1 else gguf.Q8_0
    yield "output_norm.weight", state["model.norm.weight"].numpy(), gguf.F32


def metadata(name, c, tokenizer, template):
    """What an engine must know beside the tensors."""
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    pieces = [piece for piece, _ in vocab]
    special = {t["content"] for t in tokenizer["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    return {
        "general.architecture": "llama",
        "general.name": name,
        "general.license": "apache-2.0",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "llama.vocab_size": c.vocab,
        "llama.context_length": c.context,
        "llama.embedding_length": c.width,
        "llama.block_count": c.layers,
        "llama.feed_forward_length": c.ffn,
        "llama.attention.head_count": c.heads,
        "llama.attention.head_count_kv": c.kv_heads,
        "llama.attention.key_length": c.head_dim,
        "llama.attention.value_length": c.head_dim,
        "llama.attention.layer_norm_rms_epsilon": c.eps,
        "llama.rope.dimension_count": c.head_dim,
        "llama.rope.freq_base": c.theta,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [3 if p in special else 1 for p in pieces],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": pieces.index(BOS),
        "tokenizer.ggml.eos_token_id": pieces.index(END),
        "tokenizer.ggml.padding_token_id": pieces.index(END),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template,
    }


def config(c):
    """config.json in the Hugging Face layout."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab,
        "hidden_size": c.width,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.eps,
        "rope_theta": c.theta,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def write_json(path, data):
    with open(path, "w", encoding="utf-8") as out:
        json.dump(data, out, indent=2)
        out.write("\n")


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("checkpoint")
    args.add_argument("--shape", choices=SHAPES, default="stoa-tiny")
    args.add_argument("folder", help="the folder with tokenizer.json and chat_template.jinja; the files are written there")
    args = args.parse_args()
    at = lambda name: os.path.join(args.folder, name)
    saved, c = torch.load(args.checkpoint), SHAPES[args.shape]
    model = Llama(c)
    model.load_state_dict(saved["model"])
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    with open(at("tokenizer.json"), encoding="utf-8") as file:
        tokenizer = json.load(file)
    with open(at("chat_template.jinja"), encoding="utf-8") as file:
        template = file.read()
    packed = f"{args.shape}.Q8_0.gguf"
    gguf.write(at(packed), metadata(args.shape, c, tokenizer, template), list(tensors(state, c)))
    save_file({k: v.half().contiguous() for k, v in state.items()}, at("model.safetensors"), {"format": "pt"})
    write_json(at("config.json"), config(c))
    write_json(
        at("tokenizer_config.json"),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": END,
            "pad_token": END,
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": c.context,
            "chat_template": template,
        },
    )
    print("step", saved["step"])
    for name in (packed, "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        with open(at(name), "rb") as file:
            data = file.read()
        print(hashlib.sha256(data).hexdigest(), len(data), name)


if __name__ == "__main__":
    main()
