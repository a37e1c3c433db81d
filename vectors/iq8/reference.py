#!/usr/bin/env python3
"""A second IQ8 engine in plain Python, written from docs/iq8.md, and the maker of the golden vectors beside it.

`python3 vectors/iq8/reference.py` writes the JSON files again; `--check` only compares. Slow and clear; integers are Python's own,
tables come from 60-digit decimal arithmetic.
"""

import decimal
import hashlib
import json
import math
import os
import struct
import sys

decimal.getcontext().prec = 60
D = decimal.Decimal
BLOCK, CONTEXT_FRACTION = 32, 16


# 1. Notation


def away(x):
    """A decimal to the nearest integer, halves away from zero."""
    return int(x.to_integral_value(rounding=decimal.ROUND_HALF_UP))


def rd(a, b):
    q = (2 * abs(a) + b) // (2 * b)
    return -q if a < 0 else q


def rs(x, k):
    y = x << -k if k <= 0 else (0 if k >= 64 else rd(x, 1 << k))
    return max(-(2**63), min(2**63 - 1, y))


def sat(x):
    return max(-(2**31), min(2**31 - 1, x))


# 3. Tables


def pi():
    """Gauss and Legendre."""
    a, b, t, p = D(1), 1 / D(2).sqrt(), D("0.25"), D(1)
    for _ in range(7):
        a, b, t, p = (a + b) / 2, (a * b).sqrt(), t - p * ((a - b) / 2) ** 2, 2 * p
    return (a + b) ** 2 / (4 * t)


PI, LN2 = pi(), D(2).ln()


def sine(x):
    term, total, k = x, D(0), 1
    while abs(term) > D(10) ** -58:
        total += term
        term *= -x * x / ((k + 1) * (k + 2))
        k += 2
    return total


def gumbel_entry(side, octave, i):
    h = D(64 + i) / 64 / D(2) ** (octave + 2)
    u = 1 - h if side == 0 else h
    return away(D(2) ** 16 * -(-u.ln()).ln())


EXP2 = [away(D(2) ** 22 * (-LN2 * i / 256).exp()) for i in range(257)]
SIGMOID = [away(D(2) ** 21 / (1 + (D(-i) / 64).exp())) for i in range(1025)]
SINE = [away(D(2) ** 30 * sine(PI / 2 * i / 1024)) for i in range(1025)]
GUMBEL = [gumbel_entry(s, o, i) for s in range(2) for o in range(32) for i in range(65)]


def exp2w(d):
    n, i, r = d >> 16, d >> 8 & 255, d & 255
    return 0 if n >= 18 else rs(256 * EXP2[i] - (EXP2[i] - EXP2[i + 1]) * r, 14 + n)


def sigm(x):
    a = abs(x)
    i, r = a >> 10, a & 1023
    p = 2**31 if a >= 2**20 else 1024 * SIGMOID[i] + (SIGMOID[i + 1] - SIGMOID[i]) * r
    return p if x >= 0 else 2**31 - p


def sin15(a):
    w = a % 2**62
    if a >> 62 & 1:
        w = 2**62 - w
    i, r = w >> 52, w >> 36 & 65535
    f = SINE[i] + (((SINE[min(i + 1, 1024)] - SINE[i]) * r + 2**15) >> 16)
    v = (f + 2**14) >> 15
    return -v if a >> 63 & 1 else v


def cos15(a):
    return sin15((a + 2**62) % 2**64)


def gumbel(w):
    side, v = w >> 31, 2 * (w & 2**31 - 1) + 1
    octave = 32 - v.bit_length()
    n = v << octave
    i, r = n >> 25 & 63, n & 2**25 - 1
    at = (32 * side + octave) * 65 + i
    return GUMBEL[at] + rs((GUMBEL[at + 1] - GUMBEL[at]) * r, 25)


def frequencies(base, width):
    return [away(((-2 * D(i) / width) * D(base).ln()).exp() / (2 * PI) * 2**48) << 16 for i in range(width // 2)]


# 2. Formats


def blocks(row):
    return [row[i : i + BLOCK] for i in range(0, len(row), BLOCK)]


def quantise(v, fraction, bits, whole=False):
    """Elements, scales, exponent."""
    largest, shift = max(map(abs, v)), 0
    while rs(largest, shift) > 127 * (2**bits - 1):
        shift += 1
    t, q, scales = [rs(x, shift) for x in v], [], []
    for block in [t] if whole else blocks(t):
        scale = -(-max(map(abs, block)) // 127)
        scales.append(scale)
        q += [rd(x, scale) if scale else 0 for x in block]
    return q, scales, shift - fraction


def expand(values):
    """Exact numbers, as pairs of mantissa and exponent, to fixed point."""
    e = max((abs(m).bit_length() + x for m, x in values if m), default=0)
    fraction = 40 - e
    return [rs(m, -(x + fraction)) for m, x in values], fraction


def import_matrix(rows):
    """Rows of exact numbers to rows of elements and scales, and the exponent."""
    flat, fraction = expand([value for row in rows for value in row])
    weight = [max(map(abs, block)) for block in blocks(flat)]
    k = next(k for k in range(64) if rd(max(weight), 127 << k) <= 32767)
    scales = [rd(w, 127 << k) for w in weight]
    q = [[max(-127, min(127, rd(x, s << k))) if s else 0 for x in block] for block, s in zip(blocks(flat), scales)]
    per_row = len(rows[0]) // BLOCK
    matrix = [
        (sum(q[r * per_row : (r + 1) * per_row], []), scales[r * per_row : (r + 1) * per_row]) for r in range(len(rows))
    ]
    return matrix, k - fraction


def import_norm(values):
    x, fraction = expand(values)
    k = next(k for k in range(64) if rs(max(map(abs, x)), k) <= 32767)
    return [rs(v, k) for v in x], k - fraction


# 4. Operators


def dot(row, x):
    (w, ws), (q, qs, _) = row, x
    return sum(
        sum(a * b for a, b in zip(wb, qb)) * (s * t) for wb, qb, s, t in zip(blocks(w), blocks(q), ws, qs)
    )


def multiply(matrix, x):
    rows, exponent = matrix
    return [sat(rs(dot(row, x), -(exponent + x[2] + 16))) for row in rows]


def embed(matrix, token):
    rows, exponent = matrix
    q, scales = rows[token]
    return [sat(rs(a * scales[i // BLOCK], -(exponent + 16))) for i, a in enumerate(q)]


def rms_norm(r, norm, epsilon):
    """The values before they are quantised, and their fraction bits."""
    g, exponent = norm
    cut = max(0, max(map(abs, r)).bit_length() - 23)
    squares = sum((abs(x) >> cut) ** 2 for x in r)
    m = min(2**63 - 1, max(1, (squares << 2 * cut) // len(r) + epsilon))
    up = (62 - m.bit_length()) & ~1
    f = 2**61 // math.isqrt(m << up if up >= 0 else m >> -up)
    return [rs(x * f, 41 - up // 2) * w for x, w in zip(r, g)], 20 - exponent


def rotate(head, freqs, position):
    out = []
    for i, f in enumerate(freqs):
        a = position * f % 2**64
        c, s, x, y = cos15(a), sin15(a), head[2 * i], head[2 * i + 1]
        out += [sat(rs(x * c - y * s, 15)), sat(rs(x * s + y * c, 15))]
    return out


def query_factor(width):
    ln2 = away(LN2 * 2**62)
    return rd((rd(2**124, ln2) >> 2) << 24, math.isqrt(width << 48) << 30)


def softmax(scores):
    return [exp2w(max(scores) - t) for t in scores]


def attention(head, cache):
    """Output of one query head over the keys and values of its cache."""
    factor = query_factor(len(head))
    u = quantise([x * factor for x in head], 46, 16)
    scores = [sat(rs(dot((k[0], k[1]), u), -(u[2] + k[2] + 16))) for k, _ in cache]
    w = softmax(scores)
    a = [x * v[1][0] for x, (_, v) in zip(w, cache)]
    e = max(v[2] for _, v in cache)
    m = max(0, max(x >> e - v[2] for x, (_, v) in zip(a, cache)).bit_length() - 15)
    b = [min(32767, rs(x, e - v[2] + m)) for x, (_, v) in zip(a, cache)]
    inverse = 2**62 // sum(w)
    sums = [sum(x * v[0][i] for x, (_, v) in zip(b, cache)) for i in range(len(head))]
    return [sat(rs(s * inverse, 62 - (e + m + 16))) for s in sums]


def swiglu(gate, up):
    return [rs(g * sigm(g), 31) * u for g, u in zip(gate, up)]


def pool(sums):
    """Sums of states to a vector of length one in Q24."""
    k = max(map(abs, sums)).bit_length() - 31
    t = [rs(s, k) for s in sums]
    r = math.isqrt(sum(x * x for x in t))
    return [rd(x * 2**24, r) if r else 0 for x in t]


class Model:
    """A Llama model; `tensors` maps safetensors names to rows of exact numbers."""

    def __init__(self, shape, tensors):
        self.shape = shape
        self.norms = {n: import_norm(t[0]) for n, t in tensors.items() if len(t) == 1}
        self.matrices = {n: import_matrix(self.paired(n, t)) for n, t in tensors.items() if len(t) > 1}
        self.freqs = frequencies(shape["rope_theta"], shape["head"])
        self.caches = [[[] for _ in range(shape["kv_heads"])] for _ in range(shape["layers"])]
        self.length = 0

    def paired(self, name, rows):
        """Rows of query and key with the two rows of a rotary pair beside each other."""
        if not name.endswith(("q_proj.weight", "k_proj.weight")):
            return rows
        d = self.shape["head"]
        order = [h + i + half * d // 2 for h in range(0, len(rows), d) for i in range(d // 2) for half in (0, 1)]
        return [rows[r] for r in order]

    def state(self, token):
        """The last residual after one more token."""
        shape, d = self.shape, self.shape["head"]
        r = embed(self.matrices["model.embed_tokens.weight"], token)
        add = lambda y: [sat(a + b) for a, b in zip(r, y)]
        heads = lambda v: [v[i : i + d] for i in range(0, len(v), d)]
        for layer in range(shape["layers"]):
            at = lambda part: self.matrices[f"model.layers.{layer}.{part}.weight"]
            x = self.normalise(r, f"model.layers.{layer}.input_layernorm.weight")
            q, k, v = (heads(multiply(at(f"self_attn.{p}_proj"), x)) for p in "qkv")
            for cache, key, value in zip(self.caches[layer], k, v):
                key = quantise(rotate(key, self.freqs, self.length), 16, 15)
                cache.append((key, quantise(value, 16, 15, whole=True)))
            group = shape["heads"] // shape["kv_heads"]
            out = []
            for i, head in enumerate(q):
                out += attention(rotate(head, self.freqs, self.length), self.caches[layer][i // group])
            r = add(multiply(at("self_attn.o_proj"), quantise(out, 16, 16)))
            x = self.normalise(r, f"model.layers.{layer}.post_attention_layernorm.weight")
            h = swiglu(multiply(at("mlp.gate_proj"), x), multiply(at("mlp.up_proj"), x))
            r = add(multiply(at("mlp.down_proj"), quantise(h, 32, 16)))
        self.length += 1
        return r

    def step(self, token):
        """Logits after one more token."""
        output = self.matrices.get("lm_head.weight", self.matrices["model.embed_tokens.weight"])
        return multiply(output, self.normalise(self.state(token), "model.norm.weight"))

    def vector(self, tokens, dimensions=0):
        """The vector of a text, of a model that has seen nothing yet."""
        norm, epsilon = self.norms["model.norm.weight"], self.shape["epsilon_q32"]
        states = [rms_norm(self.state(token), norm, epsilon)[0] for token in tokens]
        sums = [sum(column) for column in zip(*states)]
        return pool(sums[:dimensions] if dimensions else sums)

    def normalise(self, r, name):
        z, fraction = rms_norm(r, self.norms[name], self.shape["epsilon_q32"])
        return quantise(z, fraction, 16)


# 6. Sampling


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [b >> 32 ^ c[1] ^ k[0], b % 2**32, a >> 32 ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def noise(seed, position, token):
    words = philox([token // 4, position, 0x49513847, 0], [seed % 2**32, seed >> 32])
    return gumbel(words[token % 4])


def sample(logits, temperature, min_p, seed, position):
    if temperature == 0:
        return logits.index(max(logits))
    floor = -(2**63)
    if min_p:
        ln = away((D(min(min_p, 2**16)) / 2**16).ln() * 2**62)
        floor = max(logits) + rs(temperature * rd(ln, 2**46), 16)
    score = lambda i: (logits[i] << 16) + temperature * noise(seed, position, i)
    return max((i for i, l in enumerate(logits) if l >= floor), key=lambda i: (score(i), -i))


# 7. Model root


def keccak(data):
    """keccak-256, as Ethereum has it."""
    rotate_left = lambda x, n: ((x << n) | (x >> 64 - n)) % 2**64 if n else x
    lanes, rate = [0] * 25, 136
    data += b"\x01" + bytes(-(len(data) + 1) % rate)
    data = data[:-1] + bytes([data[-1] | 0x80])
    for start in range(0, len(data), rate):
        for i in range(rate // 8):
            lanes[i] ^= int.from_bytes(data[start + 8 * i : start + 8 * i + 8], "little")
        lfsr = 1
        for _ in range(24):
            c = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
            lanes = [lanes[i] ^ c[(i - 1) % 5] ^ rotate_left(c[(i + 1) % 5], 1) for i in range(25)]
            x, y, moved = 1, 0, lanes[1]
            for t in range(24):
                x, y = y, (2 * x + 3 * y) % 5
                moved, lanes[x + 5 * y] = lanes[x + 5 * y], rotate_left(moved, (t + 1) * (t + 2) // 2 % 64)
            for y in range(0, 25, 5):
                row = lanes[y : y + 5]
                lanes[y : y + 5] = [row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5]) % 2**64 for x in range(5)]
            for j in range(7):
                if lfsr & 1:
                    lanes[0] ^= 1 << (2**j - 1)
                lfsr = lfsr << 1 ^ (0x171 if lfsr >> 7 & 1 else 0)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def merkle(level):
    while len(level) > 1:
        pairs = [sorted(level[i : i + 2]) for i in range(0, len(level), 2)]
        level = [keccak(b"".join(p)) if len(p) == 2 else p[0] for p in pairs]
    return level[0]


def gguf_tokenizer(tokens, merges, controls):
    """The JSON of a GGUF file with `tokenizer.ggml.pre` = `gpt-2`."""
    level = lambda regex: {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": regex}
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i in controls]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "merges": merges,
             "vocab": {t: i for i, t in enumerate(tokens)}}
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                "pre_tokenizer": level(True), "post_processor": None, "decoder": level(False), "model": model}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def model_root(model, begin, end, tokenizer, template):
    """Root of a model whose plain prompts get no begin token, with `end` as its only end id."""
    be = lambda n, size: (n % 256**size).to_bytes(size, "big")
    leaf = lambda kind, body: keccak(keccak(b"stoa.iq8.v0\0" + kind.encode() + b"\0" + body))
    s = model.shape
    sizes = [s[k] for k in ("vocab", "width", "layers", "heads", "kv_heads", "head", "ffn", "context", "epsilon_q32")]
    leaves = [
        leaf("config", b"".join(be(n, 8) for n in sizes + model.freqs)),
        leaf("tables", b"".join(be(e, 4) for t in (EXP2, SIGMOID, SINE, GUMBEL) for e in t)),
        leaf("tokenizer", be(begin, 8) + be(end, 8) + b"\0" + be(1, 8) + be(end, 4) + tokenizer.encode()),
        leaf("template", b"\x01" + template.encode()),
    ]

    def tensor(number, name):
        if name in model.norms:
            g, exponent = model.norms[name]
            leaves.append(leaf("norm", be(number, 4) + be(exponent, 4) + b"".join(be(x, 2) for x in g)))
            return
        rows, exponent = model.matrices[name]
        for row, (q, scales) in enumerate(rows):
            head = be(number, 4) + be(row, 4) + be(exponent, 4)
            leaves.append(leaf("row", head + b"".join(be(x, 2) for x in scales) + b"".join(be(x, 1) for x in q)))

    for number, name in enumerate(("model.embed_tokens", "model.norm", "lm_head")):
        tensor(number, name + ".weight")
    parts = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    for layer in range(s["layers"]):
        for i, part in enumerate(parts):
            tensor(3 + 9 * layer + i, f"model.layers.{layer}.{part}.weight")
    return merkle(leaves)


# Vectors


def numbers(count, low, high, stream):
    """Reproducible integers in [low, high]."""
    out = []
    for i in range((count + 3) // 4):
        out += philox([i, stream, 0, 0], [1, 2])
    return [low + w * (high - low + 1) // 2**32 for w in out[:count]]


def vector_dot():
    cases = []
    for stream, (length, size) in enumerate([(32, 2**16), (64, 2**30), (128, 2**50), (96, 100)]):
        x = numbers(length, -size, size, stream)
        x[length // 2] *= 9
        w, scales = numbers(length, -127, 127, stream + 20), numbers(length // 32, 0, 32767, stream + 40)
        q, s, e = quantise(x, 16, 16)
        cases.append({"values": x, "fraction": 16, "q": q, "scales": s, "exponent": e, "row": w, "row_scales": scales,
                      "sum": dot((w, scales), (q, s, e)), "output": multiply(([(w, scales)], -20), (q, s, e))[0]})
    return {"row_exponent": -20, "cases": cases}


def vector_rmsnorm():
    cases = []
    for stream, (length, size) in enumerate([(32, 3), (64, 2**12), (96, 2**20), (64, 2**31 - 1)]):
        r, g = numbers(length, -size, size, 100 + stream), numbers(length, -32767, 32767, 120 + stream)
        z, fraction = rms_norm(r, (g, -14), 42950)
        cases.append({"residual": r, "weights": g, "output": z, "fraction": fraction})
    return {"epsilon_q32": 42950, "weights_exponent": -14, "cases": cases}


def vector_softmax():
    scores = [numbers(n, -(2**bits), 2**bits, 200 + n) for n, bits in [(1, 10), (7, 16), (40, 18), (40, 21)]]
    gates = [-(2**31), 2**31 - 1, 0, 1, -1] + numbers(40, -(2**21), 2**21, 230)
    return {"cases": [{"scores": s, "weights": softmax(s)} for s in scores],
            "sigmoid": [{"x": x, "q31": sigm(x)} for x in gates],
            "swiglu": {"gate": gates, "up": gates[::-1], "output": swiglu(gates, gates[::-1])}}


def vector_rope():
    cases = []
    for base, width in [(10000, 32), (500000, 64)]:
        freqs = frequencies(base, width)
        for position in [0, 1, 1023, 131071]:
            head = numbers(width, -(2**20), 2**20, 300 + position)
            cases.append({"base": base, "frequencies_q64": [str(f) for f in freqs], "position": position, "head": head,
                          "output": rotate(head, freqs, position)})
    return {"query_factors": {str(d): query_factor(d) for d in (32, 64, 96, 128)}, "cases": cases}


def vector_sampler():
    logits, cases = numbers(50, -(2**19), 2**19, 400), []
    for i, (temperature, min_p) in enumerate([(0, 0), (45875, 0), (65536, 3277), (131072, 0), (131072, 32768), (6554, 1)]):
        for seed in (0, 7, 2**64 - 1):
            cases.append({"temperature": temperature, "min_p": min_p, "seed": str(seed), "position": 17 + i,
                          "token": sample(logits, temperature, min_p, seed, 17 + i)})
    draws = [(0, 0, 0), (1, 2, 3), (2**64 - 1, 2**20, 128255), (42, 5, 6)]
    return {"logits": logits, "cases": cases,
            "noise": [{"seed": str(s), "position": p, "token": t, "q16": noise(s, p, t)} for s, p, t in draws],
            "gumbel": [{"bits": w, "q16": gumbel(w)} for w in [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 123456789, 3456789012]]}


def vector_tables():
    packed = b"".join(e.to_bytes(4, "big", signed=e < 0) for t in (EXP2, SIGMOID, SINE, GUMBEL) for e in t)
    return {"sha256": hashlib.sha256(packed).hexdigest(),
            "samples": {"exp2": EXP2[::64], "sigmoid": SIGMOID[::256], "sine": SINE[::256], "gumbel": GUMBEL[::520]}}


def whole_model():
    """A whole model: shape, sizes of its tensors, tensors. Weight `j` of tensor `t` (in the order listed) is an integer in [-512, 511] over 1,024, plus 1 for norms."""
    shape = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head": 32, "ffn": 96, "context": 64, "vocab": 262,
             "tied": False, "rope_theta": 10000, "epsilon_q32": 42950}
    sizes = [("model.embed_tokens.weight", 262, 64), ("model.norm.weight", 1, 64), ("lm_head.weight", 262, 64)]
    for layer in range(2):
        at = f"model.layers.{layer}."
        sizes += [(at + "input_layernorm.weight", 1, 64), (at + "post_attention_layernorm.weight", 1, 64)]
        sizes += [(f"{at}self_attn.{p}_proj.weight", rows, 64) for p, rows in (("q", 128), ("k", 64), ("v", 64))]
        sizes += [(at + "self_attn.o_proj.weight", 64, 128), (at + "mlp.gate_proj.weight", 96, 64)]
        sizes += [(at + "mlp.up_proj.weight", 96, 64), (at + "mlp.down_proj.weight", 64, 96)]
    tensors = {}
    for index, (name, rows, columns) in enumerate(sizes):
        x = numbers(rows * columns, -512, 511, 500 + index)
        values = [(v + 1024 if rows == 1 else v, -10) for v in x]
        tensors[name] = [values[i : i + columns] for i in range(0, len(values), columns)]
    return shape, sizes, tensors


def vector_model():
    shape, sizes, tensors = whole_model()
    model, tokens = Model(shape, tensors), numbers(24, 0, 261, 900)
    logits = [model.step(t) for t in tokens]
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    others = [b for b in range(256) if b not in printable]
    pieces = [chr(b) if b in printable else chr(0x100 + others.index(b)) for b in range(256)]
    pieces += ["he", "ll", "hell", "<|begin|>", "<|end|>", "<|tool_call|>"]
    tokenizer = gguf_tokenizer(pieces, ["h e", "l l", "he ll"], range(259, 262))
    template = "<|begin|>{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    root = model_root(model, 259, 260, tokenizer, template).hex()
    return {"shape": shape, "tensors": [list(s) for s in sizes], "first_stream": 500, "tokens": tokens, "gguf_root": root,
            "logits": {str(i): logits[i] for i in (0, 1, 23)}, "greedy": [l.index(max(l)) for l in logits]}


def vector_pooling():
    shape, _, tensors = whole_model()
    tokens, cases = numbers(40, 0, 261, 910), []
    for length, dimensions in [(1, 0), (16, 0), (17, 5), (40, 0), (40, 1), (40, 63)]:
        vector = Model(shape, tensors).vector(tokens[:length], dimensions)
        floats = b"".join(struct.pack("<f", x / 2**24) for x in vector).hex()
        cases.append({"length": length, "dimensions": dimensions, "q24": vector, "floats_le": floats})
    sums = [[0, 0], [1], [0, -1, 0], numbers(7, -100, 100, 920), [x << 31 for x in numbers(9, -(2**31), 2**31 - 1, 921)],
            [2**64 - 1] * 40, [2**31 - 1, -(2**31)], [2**64 - 1, 1, -(2**33)]]
    return {"tokens": tokens, "cases": cases, "sums": [{"sums": [str(s) for s in x], "q24": pool(x)} for x in sums]}


def main():
    folder, check = os.path.dirname(os.path.abspath(__file__)), "--check" in sys.argv
    makers = {"dot": vector_dot, "rmsnorm": vector_rmsnorm, "softmax": vector_softmax, "rope": vector_rope,
              "sampler": vector_sampler, "tables": vector_tables, "model": vector_model,
              "pooling": vector_pooling}
    for name, make in makers.items():
        path, text = os.path.join(folder, name + ".json"), json.dumps(make()) + "\n"
        if check:
            with open(path, encoding="utf-8") as file:
                assert file.read() == text, f"{name}.json differs from what this program makes"
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        print(name, "checked" if check else "written", len(text), "bytes")


if __name__ == "__main__":
    main()
