#!/usr/bin/env python3
"""Records what llama.cpp's tokenizers (PyPI `xllamacpp`) make of texts: vocabularies, texts and ids, in tokenizers.json.

    pip install gguf xllamacpp && python3 vectors/iq8/against_llama_tokenizer.py

The vocabularies are trained here on a few lines, so that every token comes of this file alone. The engine's tests and `reference.py`
read the JSON and need neither package.
"""

import json
import os
import random
import tempfile
import unicodedata
import urllib.request

import gguf
import numpy
import xllamacpp

CORPUS = """The quick brown fox jumps over the lazy dog. She sells sea shells by the sea shore, and the shells she sells are sea shells.
A text of this kind is split into words; words are split into pieces: unbelievable, believable, believing, believers.
def tokenize(text):    return [piece for piece in text.split(' ') if piece != '']        # eight spaces
In 2024 there were 365 + 1 = 366 days, 12345678901234567890 is a number, 3.14159 too; don't, I'll, we've, it's, YOU'RE.
Ünïcödé wörds: naïve café, Straße, Übergröße, façade. Кириллица: привет, мир! Ελληνικά: γεια σου κόσμε.
日本語のテキストと中文文本。 한국어 텍스트. עברית ו-العربية. हिन्दी में। ไทย
https://example.org/path?query=1&other=2 {"key": "value", "list": [1, 2, 3]} <tag attr="x">body</tag>
""" * 2
TEXTS = [
    "", " ", "  ", "   ", "        ", "a", " a", "a ", " a ", "hello", "Hello world", " Hello  world ", "the the  the   the    the",
    "\n", "\n\n", "a\nb", "a\r\nb\r\n\r\nc", "\t\ttabs\tand spaces  \t ", "The quick brown fox", "unbelievable believers", "YOU'RE don't we'Ve",
    "1 12 123 1234 12345 3.14159", "x=1+2*3/4", "aaaaaaaaaaaaaaaaaaaaaaaaa", "ssssssssseeeeeeeee", "▁", "▁▁a ▁ b", "naïve café Straße",
    "привет мир", "日本語のテキスト", "中文文本。", "한국어", "עברית العربية", "हिन्दी", "🙂🙃 👩‍👩‍👧 🇩🇪", "e\u0301 vs é", "\u00a0nbsp\u2003em space",
    "\u0000\u0001\u007f\u0080", "𝕳𝖊𝖑𝖑𝖔", "\ufeffbom", "<s>", "</s> <s>hi</s>", "<0x41> <0x0A>", "<unk>", "[INST] say it [/INST]", "[INST]say it[/INST]",
    "<|user|>hello<|user|> there", "a<|user|><|user|>b", " [INST] ", "CamelCaseWordsAndHTTPServers", "snake_case_name __init__", "end.\n\n\nNext",
    "path/to/file.txt//\n", "!!!??? ... --- ***", "“quoted” ‘single’ — dash", "ÀÉÎÕÜ àéîõü ǅ ʰ ª º", "٣٤٥ ४५६ Ⅷ ½ ²",
]
LETTERS = "aabeehlosst  \n.,1'▁ßé日🙂"


def texts():
    rng = random.Random(7)
    made = ["".join(rng.choice(LETTERS) for _ in range(rng.randrange(1, 40))) for _ in range(60)]
    words = CORPUS.split(" ")
    return TEXTS + made + [" ".join(rng.choice(words) for _ in range(8)) for _ in range(20)]


def train(words, count):
    """Byte-pair encoding: the merges of the most frequent pairs."""
    words, merges = [list(w) for w in words], []
    for _ in range(count):
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = max(sorted(pairs), key=pairs.get)
        merges.append(best)
        for i, word in enumerate(words):
            out = []
            for letter in word:
                if out and (out[-1], letter) == best:
                    out[-1] += letter
                else:
                    out.append(letter)
            words[i] = out
    return merges


def pieces():
    """Tokens, scores and types of a vocabulary of pieces, as SentencePiece orders them."""
    words = ["▁" + w for w in CORPUS.replace("\n", " ").split(" ")] + ["▁" * 16] * 4
    merged = ["".join(pair) for pair in train(words, 500)]
    # Some letters have no piece and are in none, as where a vocabulary does not cover every letter of its corpus.
    letters = sorted({c for w in words for c in w} - set("日中العहΕ"))
    merged = [piece for piece in merged if all(c in letters for c in piece)]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    scores, types = [0.0] * len(tokens), [2, 3, 3] + [6] * 256
    seen = set(tokens)
    for piece in merged + letters:
        if piece not in seen:
            seen.add(piece)
            tokens.append(piece)
            scores.append(float(-len(seen)))
            types.append(1)
    for token, kind in (("[INST]", 3), ("[/INST]", 3), ("<|user|>", 4)):
        tokens.append(token)
        scores.append(-1000.0)
        types.append(kind)
    return tokens, scores, types


def letters_of_bytes():
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(0x100 + others.index(b)) for b in range(256)]


def byte_level():
    letter = letters_of_bytes()
    words, word = [], ""
    for c in CORPUS:
        if c in " \n" and word:
            words.append(word)
            word = ""
        word += "".join(letter[b] for b in c.encode())
    merges = train(words, 500)
    tokens = letter + list(dict.fromkeys("".join(pair) for pair in merges))
    return tokens + ["<|begin|>", "<|end|>", "<|user|>"], [" ".join(pair) for pair in merges]


def word_pieces():
    """Tokens and types of a vocabulary of word pieces, as llama.cpp's converter writes one: a mark where a word begins, none where it goes on."""
    plain = "".join(c for c in unicodedata.normalize("NFD", CORPUS) if unicodedata.category(c) != "Mn").lower()
    apart = "".join(c if c.isalnum() or c.isspace() else f" {c} " for c in plain).split()
    marked = ["▁" + w for w in apart]
    begin = sorted({w[:1] for w in apart} - set("日ع"))
    go_on = sorted({c for w in apart for c in w[1:]} - set("中य"))
    made = ["".join(pair) for pair in train(marked, 300)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    types = [3] * len(tokens)
    pieces = dict.fromkeys(["▁" + c for c in begin] + go_on + [piece for piece in made if piece != "▁"])
    return tokens + list(pieces), types + [1] * len(pieces)


def write(path, fill):
    """A model of one layer with a vocabulary, enough for llama.cpp to load."""
    file, width = gguf.GGUFWriter(path, "llama"), 32
    tokens = fill(file)
    file.add_context_length(64)
    file.add_embedding_length(width)
    file.add_block_count(1)
    file.add_feed_forward_length(width)
    file.add_head_count(1)
    file.add_head_count_kv(1)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(width)
    zeros = lambda *shape: numpy.zeros(shape, dtype=numpy.float32)
    file.add_tensor("token_embd.weight", zeros(len(tokens), width))
    file.add_tensor("output_norm.weight", zeros(width))
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        file.add_tensor(f"blk.0.{part}.weight", zeros(width, width))
    for part in ("attn_norm", "ffn_norm"):
        file.add_tensor(f"blk.0.{part}.weight", zeros(width))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def ask(fill, wanted):
    """llama.cpp's ids of every text with each set of flags."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        write(path, fill)
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx, params.n_parallel, params.warmup = 64, 1, False
        server = xllamacpp.Server(params)
        url = server.listening_address + "/tokenize"

        def ids(text, flags):
            body = json.dumps({"content": text, **flags}).encode()
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as reply:
                return json.load(reply)["tokens"]

        out = {name: [ids(text, flags) for text in texts()] for name, flags in wanted.items()}
        out["begins"] = ids("a", {"add_special": True})[0] == BEGIN[fill.kind]
        return out


BEGIN = {}
FLAGS = {"special": {"parse_special": True}, "plain": {"parse_special": False}}


def record():
    out = {"texts": texts(), "pieces": {}, "bytes": {}}
    tokens, scores, types = pieces()
    BEGIN["pieces"] = 1
    out["pieces"] = {"tokens": tokens, "scores": scores, "types": types, "cases": []}
    for prefix in (True, False):

        def fill(file):
            file.add_tokenizer_model("llama")
            file.add_token_list(tokens)
            file.add_token_scores(scores)
            file.add_token_types(types)
            file.add_add_space_prefix(prefix)
            return tokens

        fill.kind = "pieces"
        out["pieces"]["cases"].append({"space_prefix": prefix, **ask(fill, FLAGS)})
    letters, merges = byte_level()
    BEGIN["bytes"] = len(letters) - 3
    out["bytes"] = {"tokens": letters, "merges": merges, "cases": []}
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "deepseek-r1-qwen"):

        def fill(file):
            file.add_tokenizer_model("gpt2")
            file.add_tokenizer_pre(pre)
            file.add_token_list(letters)
            file.add_token_merges(merges)
            file.add_token_types([1] * (len(letters) - 3) + [3] * 3)
            file.add_bos_token_id(len(letters) - 3)
            file.add_eos_token_id(len(letters) - 2)
            return letters

        fill.kind = "bytes"
        out["bytes"]["cases"].append({"pre": pre, **ask(fill, FLAGS)})
    words, types = word_pieces()
    BEGIN["words"] = words.index("[CLS]")
    out["words"] = {"tokens": words, "types": types, "cases": []}
    for lowercase in (True, False):

        def fill(file):
            file.add_tokenizer_model("bert")
            file.add_token_list(words)
            file.add_token_types(types)
            file.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
            file.add_unk_token_id(words.index("[UNK]"))
            file.add_bos_token_id(words.index("[CLS]"))
            file.add_sep_token_id(words.index("[SEP]"))
            return words

        fill.kind = "words"
        framed = {"framed": {"add_special": True, "parse_special": False}}
        out["words"]["cases"].append({"lowercase": lowercase, **ask(fill, {**FLAGS, **framed})})
    return out


if __name__ == "__main__":
    target = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers.json")
    with open(target, "w", encoding="utf-8") as file:
        file.write(json.dumps(record(), ensure_ascii=False, separators=(",", ":")) + "\n")
