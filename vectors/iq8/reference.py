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
import re
import struct
import sys
import unicodedata

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


def normal_entry(i):
    """Share of the normal distribution below i / 128, by the series of its odd powers, all positive."""
    x = D(i) / 128
    term, total, odd = x, D(0), 1
    while term > D(10) ** -50:
        total += term
        odd += 2
        term *= x * x / odd
    return away(D(2) ** 22 * (D("0.5") + total * (-x * x / 2).exp() / (2 * PI).sqrt()))


NORMAL = [normal_entry(i) for i in range(1025)]


def exp2w(d):
    n, i, r = d >> 16, d >> 8 & 255, d & 255
    return 0 if n >= 18 else rs(256 * EXP2[i] - (EXP2[i] - EXP2[i + 1]) * r, 14 + n)


def sigm(x):
    a = abs(x)
    i, r = a >> 10, a & 1023
    p = 2**31 if a >= 2**20 else 1024 * SIGMOID[i] + (SIGMOID[i + 1] - SIGMOID[i]) * r
    return p if x >= 0 else 2**31 - p


def norm31(x):
    a = abs(x)
    i, r = a >> 9, a & 511
    p = 2**31 if a >= 2**19 else 512 * NORMAL[i] + (NORMAL[i + 1] - NORMAL[i]) * r
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


def rotary(shape):
    """Frequencies and gain of a model."""
    base, d, scaling = shape["rope_theta"], shape["head"], shape.get("rope_scaling")
    if not scaling:
        return frequencies(base, d), 2**16
    phi = [((-2 * D(i) / d) * D(base).ln()).exp() / (2 * PI) for i in range(d // 2)]
    factor = D(scaling["factor"])
    if scaling["type"] == "linear":
        return [away(p / factor * 2**48) << 16 for p in phi], 2**16
    assert scaling["type"] == "yarn"
    pair = lambda turns: d * (D(scaling["original"]) / (2 * PI * turns)).ln() / (2 * D(base).ln())
    a = max(0, math.floor(pair(scaling.get("fast", 32))))
    b = min(d - 1, math.ceil(pair(scaling.get("slow", 1))))
    assert a <= b
    w = max(1, b - a)
    kept = [min(w, max(0, w - (i - a))) for i in range(d // 2)]
    turned = [p / factor + (p - p / factor) * k / w for p, k in zip(phi, kept)]
    gain = scaling.get("gain") or 2**16 + away(factor.ln() / 10 * 2**16)
    return [away(p * 2**48) << 16 for p in turned], gain


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


def binary16(bits):
    """A finite binary16 number as a multiple of 2^-24."""
    exponent, fraction = bits >> 10 & 31, bits & 1023
    assert exponent < 31
    m = fraction if exponent == 0 else (1024 + fraction) * 2 ** (exponent - 1)
    return -m if bits >> 15 else m


UNITS = {"Q8_0": (32, 34), "Q5_0": (32, 22), "Q4_0": (32, 18), "Q5_1": (32, 24), "Q4_1": (32, 20), "Q6_K": (256, 210),
         "Q5_K": (256, 176), "Q4_K": (256, 144)}
KEPT = ("Q8_0", "Q5_0", "Q4_0")


def unit_elements(form, unit):
    """Elements of one unit of a block format: the scale and integers where they are kept, else multiples of 2^-24."""
    bit = lambda offset, i: unit[offset + i // 8] >> i % 8 & 1
    signed = lambda byte: byte - 256 if byte > 127 else byte
    d = binary16(unit[0] | unit[1] << 8)
    if form == "Q8_0":
        return d, [signed(b) for b in unit[2:]]
    if form in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        at = 2 if form.endswith("0") else 4
        fifth, at = (at, at + 4) if form[1] == "5" else (None, at)
        v = [b & 15 for b in unit[at:]] + [b >> 4 for b in unit[at:]]
        if fifth is not None:
            v = [x + 16 * bit(fifth, i) for i, x in enumerate(v)]
        if form.endswith("0"):
            return d, [x - (16 if form[1] == "5" else 8) for x in v]
        m = binary16(unit[2] | unit[3] << 8)
        return None, [d * x + m for x in v]
    if form == "Q6_K":
        d, out = binary16(unit[208] | unit[209] << 8), []
        for i in range(256):
            half, quarter, l = i // 128, i // 32 % 4, i % 32
            low = unit[64 * half + 32 * (quarter % 2) + l]
            low = low >> 4 if quarter > 1 else low & 15
            high = unit[128 + 32 * half + l] >> 2 * quarter & 3
            out.append(d * signed(unit[192 + i // 16]) * (low + 16 * high - 32))
        return None, out
    # Q4_K and Q5_K: 96 bits of eight factors and eight offsets.
    m, s, out = binary16(unit[2] | unit[3] << 8), unit[4:16], []
    low_at = 16 if form == "Q4_K" else 48
    for i in range(256):
        b, l = i // 32, i % 32
        if b < 4:
            factor, offset = s[b] & 63, s[b + 4] & 63
        else:
            factor = (s[b + 4] & 15) + 16 * (s[b - 4] >> 6)
            offset = (s[b + 4] >> 4) + 16 * (s[b] >> 6)
        byte = unit[low_at + 32 * (b // 2) + l]
        v = byte >> 4 if b % 2 else byte & 15
        if form == "Q5_K":
            v += 16 * (unit[16 + l] >> b & 1)
        out.append(d * factor * v - m * offset)
    return None, out


def import_units(form, rows):
    """Rows of bytes of a block format to rows of elements and scales, and the exponent."""
    size = UNITS[form][1]
    units = [[unit_elements(form, row[i : i + size]) for i in range(0, len(row), size)] for row in rows]
    if form not in KEPT:
        return import_matrix([[(x, -24) for _, unit in row for x in unit] for row in units])
    x, fraction = expand([(d, -24) for row in units for d, _ in row])
    k = next(k for k in range(64) if rd(127 * max(map(abs, x)), 127 << k) <= 32767)
    matrix, x = [], iter(x)
    for row in units:
        signs = [(next(x), q) for _, q in row]
        matrix.append(([-e if d < 0 else e for d, q in signs for e in q], [rd(127 * abs(d), 127 << k) for d, _ in signs]))
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


def attention(head, cache, gain=2**16):
    """Output of one query head over the keys and values that it sees."""
    factor = rs(query_factor(len(head)) * gain**2, 32)
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


def head_norm(x, norm, epsilon):
    z, _ = rms_norm(x, norm, epsilon)
    return [sat(rs(v, 4 - norm[1])) for v in z]


def layer_norm(r, norm, bias, epsilon):
    m = rd(sum(r), len(r))
    return add(head_norm([sat(x - m) for x in r], norm, epsilon), bias)


def gelu(x):
    return [rs(u * norm31(u), 31) for u in x]


def add(x, y):
    return [sat(a + b) for a, b in zip(x, y)]


def route(row, n):
    """What a row of a router says of a normalised vector that is not quantised."""
    weights, exponent = row
    return sat(rs(sum(w * x for w, x in zip(weights, n)), -exponent))


def choose(logits, count, renormalise):
    """The chosen experts with their weights, and what the weights are divided by."""
    log2_e = rd(2**124, away(LN2 * 2**62)) >> 32
    t = [sat(rs(l * log2_e, 30)) for l in logits]
    w = [exp2w(max(t) - x) for x in t]
    chosen = sorted(range(len(t)), key=lambda e: (-logits[e], e))[:count]
    return [(e, w[e]) for e in chosen], sum(w[e] for e in chosen) if renormalise else sum(w)


def mix(outputs, weights, total):
    """Outputs of experts, by their weights over the total."""
    inverse = 2**62 // total
    return [sat(rs(sum(w * y for w, y in zip(weights, column)) * inverse, 62)) for column in zip(*outputs)]


def pool(sums):
    """Sums of states to a vector of length one in Q24."""
    k = max(map(abs, sums)).bit_length() - 31
    t = [rs(s, k) for s in sums]
    r = math.isqrt(sum(x * x for x in t))
    return [rd(x * 2**24, r) if r else 0 for x in t]


# Numbers of the parts of a layer, by their names in safetensors.
PARTS = {"input_layernorm.weight": 0, "self_attn.q_proj.weight": 1, "self_attn.k_proj.weight": 2, "self_attn.v_proj.weight": 3,
         "self_attn.o_proj.weight": 4, "post_attention_layernorm.weight": 5, "mlp.gate_proj.weight": 6, "mlp.up_proj.weight": 7,
         "mlp.down_proj.weight": 8, "self_attn.q_proj.bias": 9, "self_attn.k_proj.bias": 10, "self_attn.v_proj.bias": 11,
         "self_attn.q_norm.weight": 13, "self_attn.k_norm.weight": 14,
         "mlp.shared_expert.gate_proj.weight": 20, "mlp.shared_expert.up_proj.weight": 21,
         "mlp.shared_expert.down_proj.weight": 22, "mlp.shared_expert_gate.weight": 23,
         "attention.output.LayerNorm.weight": 0, "attention.self.query.weight": 1, "attention.self.key.weight": 2,
         "attention.self.value.weight": 3, "attention.output.dense.weight": 4, "output.LayerNorm.weight": 5,
         "intermediate.dense.weight": 7, "output.dense.weight": 8, "attention.self.query.bias": 9, "attention.self.key.bias": 10,
         "attention.self.value.bias": 11, "attention.output.dense.bias": 12, "intermediate.dense.bias": 15,
         "output.dense.bias": 16, "attention.output.LayerNorm.bias": 17, "output.LayerNorm.bias": 18}
OTHERS = {"model.embed_tokens.weight": 0, "embeddings.word_embeddings.weight": 0, "model.norm.weight": 1, "lm_head.weight": 2,
          "embeddings.position_embeddings.weight": 3, "embeddings.token_type_embeddings.weight": 4,
          "embeddings.LayerNorm.weight": 5, "embeddings.LayerNorm.bias": 6}


def number_of(name):
    """Number of a tensor by its name in safetensors."""
    if name in OTHERS:
        return OTHERS[name]
    layer, part = name.removeprefix("model.layers.").removeprefix("encoder.layer.").split(".", 1)
    if ".experts." in part:
        expert, kind, _ = part.split(".experts.")[1].split(".")
        of_expert = {"gate_proj": 0, "up_proj": 1, "down_proj": 2, "w1": 0, "w3": 1, "w2": 2}[kind]
        return 65536 * (int(layer) + 1) + 64 + 4 * int(expert) + of_expert
    return 65536 * (int(layer) + 1) + PARTS[part]


def is_norm(number):
    part = number % 65536
    of_router = part == 23 or (part >= 64 and part % 4 == 3)
    return number in (1, 5) or (number > 65535 and (part in (0, 5, 13, 14) or of_router))


def is_bias(number):
    return number == 6 or (number > 65535 and number % 65536 in (9, 10, 11, 12, 15, 16, 17, 18))


class Model:
    """A model; `tensors` maps safetensors names to rows of exact numbers, `shape` says what section 4.1 lists."""

    def __init__(self, shape, tensors):
        self.shape, self.tensors = shape, {}
        for name, rows in tensors.items():
            if name.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight")):
                first = 65536 * (int(name.split(".")[2]) + 1)
                for e, row in enumerate(rows):
                    self.tensors[first + 64 + 4 * e + 3] = import_norm(row)
                continue
            number, paired = number_of(name), self.paired(name, rows)
            if is_norm(number):
                self.tensors[number] = import_norm(paired[0])
            elif is_bias(number):
                x, fraction = expand(paired[0])
                self.tensors[number] = [sat(rs(v, fraction - 16)) for v in x]
            else:
                self.tensors[number] = import_matrix(paired)
        self.freqs, self.gain = [], 2**16
        if "encoder" not in shape:
            self.freqs, self.gain = rotary(shape)
        self.caches = [[[] for _ in range(shape["kv_heads"])] for _ in range(shape["layers"])]
        self.length = 0

    def paired(self, name, rows):
        """Rows (or elements of a vector) of what turns, with the two of a rotary pair beside each other."""
        if not any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm")):
            return rows
        d, flat = self.shape["head"], len(rows) == 1
        rows = rows[0] if flat else rows
        order = [h + i + half * d // 2 for h in range(0, len(rows), d) for i in range(d // 2) for half in (0, 1)]
        return [[rows[r] for r in order]] if flat else [rows[r] for r in order]

    def project(self, first, part, x):
        """A matrix of the layer whose numbers begin at `first` times x, and its bias where it has one."""
        bias = {1: 9, 2: 10, 3: 11, 4: 12, 7: 15, 8: 16}.get(part)
        y = multiply(self.tensors[first + part], x)
        return add(y, self.tensors[first + bias]) if first + (bias or 99) in self.tensors else y

    def heads(self, first, x, positions):
        """Queries, keys and values of some vectors; the keys and values go into the caches."""
        shape, d, queries = self.shape, self.shape["head"], []
        split = lambda v: [v[i : i + d] for i in range(0, len(v), d)]
        for vector, position in zip(x, positions):
            q, k, v = (split(self.project(first, part, vector)) for part in (1, 2, 3))
            if shape.get("head_norm"):
                q = [head_norm(h, self.tensors[first + 13], shape["epsilon_q32"]) for h in q]
                k = [head_norm(h, self.tensors[first + 14], shape["epsilon_q32"]) for h in k]
            if self.freqs:
                q, k = ([rotate(h, self.freqs, position) for h in heads] for heads in (q, k))
            for cache, key, value in zip(self.caches[first // 65536 - 1], k, v):
                cache.append((quantise(key, 16, 15), quantise(value, 16, 15, whole=True)))
            queries.append(q)
        return queries

    def attend(self, first, q, position):
        """Output of all heads at a position, quantised; of an encoder over all positions."""
        layer, shape, out = first // 65536 - 1, self.shape, []
        window = (shape.get("windows") or [0] * shape["layers"])[layer]
        begin = max(0, position - window + 1) if window else 0
        for i, head in enumerate(q):
            cache = self.caches[layer][i // (shape["heads"] // shape["kv_heads"])]
            out += attention(head, cache[begin:], self.gain)
        return quantise(out, 16, 16)

    def feed_forward(self, first, r):
        """What the feed-forward network adds to the residual r."""
        x = self.normalise(r, first + 5)
        experts = self.shape.get("experts")
        gated = lambda at, x: multiply(self.tensors[at + 2], quantise(
            swiglu(multiply(self.tensors[at], x), multiply(self.tensors[at + 1], x)), 32, 16))
        if not experts:
            return gated(first + 6, x)
        n = head_norm(r, self.tensors[first + 5], self.shape["epsilon_q32"])
        logits = [route(self.tensors[first + 64 + 4 * e + 3], n) for e in range(experts["count"])]
        chosen, total = choose(logits, experts["chosen"], experts["renormalise"])
        outputs = [gated(first + 64 + 4 * e, x) for e, _ in chosen]
        o = mix(outputs, [w for _, w in chosen], total)
        if experts["shared"]:
            s = sigm(route(self.tensors[first + 23], n))
            o = [sat(a + rs(y * s, 31)) for a, y in zip(o, gated(first + 20, x))]
        return o

    def state(self, token):
        """The last residual after one more token."""
        r = embed(self.tensors[0], token)
        for first in range(65536, 65536 * (self.shape["layers"] + 1), 65536):
            q = self.heads(first, [self.normalise(r, first)], [self.length])[0]
            r = add(r, self.project(first, 4, self.attend(first, q, self.length)))
            r = add(r, self.feed_forward(first, r))
        self.length += 1
        return r

    def encode(self, tokens):
        """The last residuals of an encoder at every position of a text."""
        epsilon, rows = self.shape["epsilon_q32"], []
        self.caches = [[[] for _ in caches] for caches in self.caches]
        for position, token in enumerate(tokens):
            r = add(embed(self.tensors[0], token), embed(self.tensors[3], position))
            r = add(r, embed(self.tensors[4], 0))
            rows.append(layer_norm(r, self.tensors[5], self.tensors[6], epsilon))
        for first in range(65536, 65536 * (self.shape["layers"] + 1), 65536):
            queries = self.heads(first, [quantise(r, 16, 16) for r in rows], range(len(rows)))
            for i, q in enumerate(queries):
                r = add(rows[i], self.project(first, 4, self.attend(first, q, i)))
                r = layer_norm(r, self.tensors[first], self.tensors[first + 17], epsilon)
                h = gelu(self.project(first, 7, quantise(r, 16, 16)))
                r = add(r, self.project(first, 8, quantise(h, 16, 16)))
                rows[i] = layer_norm(r, self.tensors[first + 5], self.tensors[first + 18], epsilon)
        return rows

    def step(self, token):
        """Logits after one more token."""
        return multiply(self.tensors.get(2, self.tensors[0]), self.normalise(self.state(token), 1))

    def vector(self, tokens, dimensions=0):
        """The vector of a text, of a model that has seen nothing yet."""
        if "encoder" in self.shape:
            states = self.encode(tokens)
            states = states[:1] if self.shape["encoder"]["pooling"] == 2 else states
        else:
            epsilon = self.shape["epsilon_q32"]
            states = [rms_norm(self.state(token), self.tensors[1], epsilon)[0] for token in tokens]
        sums = [sum(column) for column in zip(*states)]
        return pool(sums[:dimensions] if dimensions else sums)

    def normalise(self, r, number):
        z, fraction = rms_norm(r, self.tensors[number], self.shape["epsilon_q32"])
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


def sample(logits, temperature, min_p, seed, position, allowed=None):
    """`allowed` are the tokens that a grammar allows; all without one."""
    tokens = range(len(logits)) if allowed is None else sorted(i for i in set(allowed) if i < len(logits))
    highest = max(logits[i] for i in tokens)
    if temperature == 0:
        return next(i for i in tokens if logits[i] == highest)
    floor = -(2**63)
    if min_p:
        ln = away((D(min(min_p, 2**16)) / 2**16).ln() * 2**62)
        floor = highest + rs(temperature * rd(ln, 2**46), 16)
    score = lambda i: (logits[i] << 16) + temperature * noise(seed, position, i)
    return max((i for i in tokens if logits[i] >= floor), key=lambda i: (score(i), -i))


def adjust(logits, bias, presence, frequency, answer):
    """What is chosen from, after the tokens of `answer`; `bias` maps ids to integers."""
    out = []
    for i, logit in enumerate(logits):
        times = answer.count(i)
        out.append(sat(logit + bias.get(i, 0) - (presence if times else 0) - frequency * times))
    return out


def logprobs(logits):
    """Log-probabilities of all tokens, Q16."""
    highest, total = max(logits), 0
    for logit in logits:
        t = ((highest - logit) * away(D(2) ** 30 / LN2) + 2**29) >> 30
        n, i, r = t >> 16, t >> 8 & 255, t & 255
        total += rs(256 * EXP2[i] - (EXP2[i] - EXP2[i + 1]) * r, n) if n < 31 else 0
    log2, x = total.bit_length() - 31, total << 63 - total.bit_length()
    for _ in range(24):
        x = x * x >> 62
        log2, x = 2 * log2 + (x >= 2**63), x // 2 if x >= 2**63 else x
    ln = rs(log2 * away(LN2 * 2**30), 38)
    return [sat(logit - highest - ln) for logit in logits]


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


def piece_tokenizer(tokens, scores, types, prefix):
    """The JSON of a GGUF file with `tokenizer.ggml.model` = `llama`."""
    replace = lambda a, b: {"type": "Replace", "pattern": {"String": a}, "content": b}
    normalizer = replace(" ", "\u2581")
    if prefix:
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, normalizer]}
    plain = {t: i for i, t in enumerate(tokens) if types[i] not in (2, 3, 4, 6)}
    merges = [(-scores[i], i, -at, [t[:at], t[at:]]) for t, i in plain.items() for at in range(1, len(t))
              if t[:at] in plain and t[at:] in plain and len(t.encode()) <= 256]
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": kind != 4} for i, kind in enumerate(types) if kind in (2, 3, 4)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": True, "ignore_merges": False, "merges": [m[3] for m in sorted(merges)],
             "vocab": {t: i for i, t in enumerate(tokens)}}
    decoders = [replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
                "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Sequence", "decoders": decoders}, "model": model}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def word_tokenizer(tokens, types, first, last, unknown, lowercase):
    """The JSON of a GGUF file with `tokenizer.ggml.model` = `bert`, which does not say what becomes of accents."""
    control = lambda i: types[i] in (2, 3) or i in (first, last, unknown)
    word = lambda t: t[1:] if t[:1] == "\u2581" and t[1:] else "##" + t
    tokens = [t if control(i) else word(t) for i, t in enumerate(tokens)]
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": control(i)}
             for i, t in enumerate(tokens) if control(i) or types[i] == 4]
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
                "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                               "lowercase": lowercase},
                "pre_tokenizer": {"type": "BertPreTokenizer"},
                "post_processor": {"type": "BertProcessing", "sep": [tokens[last], last], "cls": [tokens[first], first]},
                "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
                "model": {"type": "WordPiece", "unk_token": tokens[unknown], "continuing_subword_prefix": "##",
                          "max_input_chars_per_word": 100, "vocab": {t: i for i, t in enumerate(tokens)}}}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def tokenizer_leaf(begin, end, asks, ends, text):
    """What the leaf `tokenizer` of the model root is made of."""
    be = lambda n, size: (n % 256**size).to_bytes(size, "big")
    return be(begin, 8) + be(end, 8) + bytes([asks]) + be(len(ends), 8) + b"".join(be(e, 4) for e in ends) + text.encode()


def model_root(model, begin, end, tokenizer, template):
    """Root of a model whose plain prompts get no begin token, with `end` as its only end id."""
    return merkle(model_leaves(model, begin, end, tokenizer, template)[0])


def model_leaves(model, begin, end, tokenizer, template):
    """The leaves of that root, and the first of each tensor's."""
    be = lambda n, size: (n % 256**size).to_bytes(size, "big")
    leaf = lambda kind, body: keccak(keccak(b"stoa.iq8.v1\0" + kind.encode() + b"\0" + body))
    s = model.shape
    named = lambda name, *values: name.encode() + b"\0" + be(len(values), 4) + b"".join(be(v, 8) for v in values)
    fields = [("vocabulary", "vocab"), ("width", "width"), ("layers", "layers"), ("heads", "heads"), ("key-heads", "kv_heads"),
              ("head-width", "head"), ("ffn-width", "ffn"), ("context", "context"), ("epsilon", "epsilon_q32")]
    config = b"".join(named(name, s[key]) for name, key in fields) + named("rotary", *model.freqs)
    if model.gain != 2**16:
        config += named("rotary-gain", model.gain)
    if s.get("biases"):
        config += named("biases", 1)
    if s.get("head_norm"):
        config += named("head-norm", 1)
    if any(s.get("windows") or []):
        config += named("windows", *s["windows"])
    if "experts" in s:
        e = s["experts"]
        config += named("experts", e["count"], e["chosen"], e["width"], e["shared"])
        config += named("experts-renormalised", int(e["renormalise"]))
    if "encoder" in s:
        config += named("encoder", s["encoder"]["token_types"], s["encoder"]["pooling"])
    leaves = [
        leaf("config", config),
        leaf("tables", b"".join(be(e, 4) for t in (EXP2, SIGMOID, SINE, GUMBEL, NORMAL) for e in t)),
        leaf("tokenizer", tokenizer_leaf(begin, end, False, [end], tokenizer)),
        leaf("template", b"\x01" + template.encode()),
    ]
    places = {}
    for number, tensor in sorted(model.tensors.items()):
        places[number] = len(leaves)
        if is_norm(number):
            g, exponent = tensor
            leaves.append(leaf("norm", be(number, 4) + be(exponent, 4) + b"".join(be(x, 2) for x in g)))
        elif is_bias(number):
            leaves.append(leaf("bias", be(number, 4) + b"".join(be(x, 4) for x in tensor)))
        else:
            rows, exponent = tensor
            for row, (q, scales) in enumerate(rows):
                head = be(number, 4) + be(row, 4) + be(exponent, 4)
                leaves.append(leaf("row", head + b"".join(be(x, 2) for x in scales) + b"".join(be(x, 1) for x in q)))
    return leaves, places


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
    adjusted, one = [], 2**16
    answers = [[], [29], [29, 29, 42, 29], numbers(60, 0, 49, 401)]
    controls = [({}, 0, one), ({}, one // 2, 0), ({29: -100 * one, 4: 100 * one, 77: 5}, 0, 0), ({3: 99}, -2 * one, one // 3),
                ({29: 2**31 - 1, 42: -(2**31), 0: 6}, 2**31 - 1, -(2**31)), ({29: 1}, -(2**31), 2**31 - 1)]
    for i, answer in enumerate(answers):
        for bias, presence, frequency in controls:
            changed = adjust(logits, bias, presence, frequency, answer)
            adjusted.append({"answer": answer, "bias": {str(t): b for t, b in bias.items()}, "presence": presence,
                             "frequency": frequency, "logits": changed, "seed": str(i), "position": 9 + len(answer),
                             "greedy": sample(changed, 0, 0, i, 9 + len(answer)),
                             "drawn": sample(changed, 65536, 655, i, 9 + len(answer))})
    likely = []
    for values in (logits, [7], [-(2**31), 2**31 - 1], [3] * 4097, numbers(300, -(2**31), 2**31 - 1, 402),
                   numbers(2000, -(2**18), 2**18, 403), [x // 2**14 for x in numbers(500, -(2**18), 2**18, 404)]):
        order = sorted(range(len(values)), key=lambda i: (-values[i], i))
        likely.append({"logits": values, "logprobs": logprobs(values)[:60], "top": order[:20]})
    draws = [(0, 0, 0), (1, 2, 3), (2**64 - 1, 2**20, 128255), (42, 5, 6)]
    held = [{"allowed": allowed, "temperature": temperature, "min_p": min_p, "seed": str(seed), "position": 3 + seed,
             "token": sample(logits, temperature, min_p, seed, 3 + seed, allowed)}
            for allowed in ([7], [0, 49], list(range(1, 50, 3)), [30, 31, 32, 60], list(range(50)))
            for temperature, min_p in ((0, 0), (65536, 0), (131072, 19661)) for seed in range(3)]
    return {"logits": logits, "cases": cases, "adjusted": adjusted, "likely": likely, "held": held,
            "noise": [{"seed": str(s), "position": p, "token": t, "q16": noise(s, p, t)} for s, p, t in draws],
            "gumbel": [{"bits": w, "q16": gumbel(w)} for w in [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 123456789, 3456789012]]}


def vector_tables():
    packed = b"".join(e.to_bytes(4, "big", signed=e < 0) for t in (EXP2, SIGMOID, SINE, GUMBEL, NORMAL) for e in t)
    return {"sha256": hashlib.sha256(packed).hexdigest(),
            "samples": {"exp2": EXP2[::64], "sigmoid": SIGMOID[::256], "sine": SINE[::256], "gumbel": GUMBEL[::520], "normal": NORMAL[::128]}}


def random_units(form, columns, stream):
    """A row of bytes of a block format: any bits, but for finite scales and no -128 in Q8_0."""
    elements, size = UNITS[form]
    row = []
    for unit in range(columns // elements):
        u = numbers(size, 0, 255, 1000 + 100 * stream + unit)
        if form == "Q8_0":
            u = [127 if b == 128 else b for b in u]
        for at in {"Q6_K": (208,), "Q8_0": (0,), "Q5_0": (0,), "Q4_0": (0,)}.get(form, (0, 2)):
            # Scales from 2^-11 to 2^-2 of either sign, with a zero and a subnormal one.
            u[at + 1] = u[at + 1] & 0x83 | 4 + u[at + 1] % 9 << 2
            if unit == 3:
                u[at : at + 2] = 0, 0
            if unit == 2 and at == 0:
                u[at : at + 2] = 77, 0x80
        row += u
    return bytes(row)


def split(document, text):
    """Ids of a text without control tokens, by the JSON of a vocabulary of pieces: the best merge first, the leftmost of equals."""
    document, out = json.loads(document), []
    vocab = document["model"]["vocab"]
    rank = {tuple(m): r for r, m in enumerate(document["model"]["merges"])}
    prefix = "\u2581" if "normalizers" in document["normalizer"] and text else ""
    symbols = list(prefix + text.replace(" ", "\u2581"))
    while True:
        best = min(((rank.get(pair, 2**32), at) for at, pair in enumerate(zip(symbols, symbols[1:]))), default=(2**32, 0))
        if best[0] == 2**32:
            break
        symbols[best[1] : best[1] + 2] = [symbols[best[1]] + symbols[best[1] + 1]]
    for symbol in symbols:
        out += [vocab[symbol]] if symbol in vocab else [vocab[f"<0x{b:02X}>"] for b in symbol.encode()]
    return out


def words(document, text):
    """Ids of a text without control tokens, by the JSON of a vocabulary of word pieces: of each word the longest pieces from the left."""
    document, out = json.loads(document), []
    model, lowercase = document["model"], document["normalizer"]["lowercase"]
    kept = "".join(" " if c in "\t\n\r" else c for c in text
                   if c in "\t\n\r" or c not in "\0\ufffd" and unicodedata.category(c) not in ("Cc", "Cf", "Cn", "Co"))
    kept = "".join(f" {c} " if "\u3400" <= c <= "\u9fff" or c >= "\U00020000" or "\uf900" <= c <= "\ufaff" else c for c in kept)
    if lowercase:
        kept = "".join(c for c in unicodedata.normalize("NFD", kept) if unicodedata.category(c) != "Mn")
        kept = "".join(c.lower() for c in kept)
    sign = lambda c: unicodedata.category(c)[0] == "P" or "!" <= c <= "~" and not c.isalnum()
    for word in "".join(f" {c} " if sign(c) else c for c in kept).split():
        ids, at = [], 0
        while at < len(word) and len(word) <= model["max_input_chars_per_word"]:
            pieces = [("##" if at else "") + word[at:end] for end in range(len(word), at, -1)]
            found = next((piece for piece in pieces if piece in model["vocab"]), None)
            if found is None:
                break
            ids, at = ids + [model["vocab"][found]], at + len(found) - (2 if at else 0)
        out += ids if at == len(word) else [model["vocab"][model["unk_token"]]]
    return out


# llama.cpp leaves out all marks where these rules leave out those that take no place, keeps but the first letter of a syllable of Hangul,
# and takes a mark of its own vocabularies in a text for one.
OTHERWISE = ["\u0900-\u097f", "\uac00-\ud7a3", "\u2581"]


def vector_pieces():
    """Hashes of the tokenizers' leaves of the vocabularies in tokenizers.json, whose ids by llama.cpp are found again from the text."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers.json"), encoding="utf-8") as file:
        recorded = json.load(file)
    v, out = recorded["pieces"], {}
    for case in v["cases"]:
        document = piece_tokenizer(v["tokens"], v["scores"], v["types"], case["space_prefix"])
        for text, ids in zip(recorded["texts"], case["plain"]):
            assert "<|user|>" in text or split(document, text) == ids, text
        leaf = tokenizer_leaf(1, 2, case["begins"], [2], document)
        out["true" if case["space_prefix"] else "false"] = hashlib.sha256(leaf).hexdigest()
    v, otherwise = recorded["words"], re.compile("[" + "".join(OTHERWISE) + "]")
    for case in v["cases"]:
        document = word_tokenizer(v["tokens"], v["types"], 2, 3, 1, case["lowercase"])
        for text, ids in zip(recorded["texts"], case["plain"]):
            assert otherwise.search(text) or words(document, text) == ids, text
        leaf = tokenizer_leaf(-1, -1, 0, [], document)
        out["words" if case["lowercase"] else "words with capitals"] = hashlib.sha256(leaf).hexdigest()
    return out


def vector_formats():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "formats_gguf.json"), encoding="utf-8") as file:
        recorded = json.load(file)
    out = {}
    for stream, form in enumerate(UNITS):
        rows = [random_units(form, 1024, 2 * stream + r) for r in range(2)]
        exact = []
        for row in rows:
            for i in range(0, len(row), UNITS[form][1]):
                d, unit = unit_elements(form, row[i : i + UNITS[form][1]])
                exact += [d * q for q in unit] if d is not None else unit
        # An integer below 2^53 is a binary64 number, and its rounding to binary32 is the only one.
        floats = b"".join(struct.pack("<f", x * 2.0**-24) for x in exact)
        assert hashlib.sha256(floats).hexdigest() == recorded[form], form
        matrix, exponent = import_units(form, rows)
        out[form] = {"rows": [row.hex() for row in rows], "exponent": exponent,
                     "scales": [s for _, s in matrix], "elements": [bytes(x % 256 for x in q).hex() for q, _ in matrix]}
    return out


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
    root = model_root(model, 259, 260, *test_tokenizer()).hex()
    return {"shape": shape, "tensors": [list(s) for s in sizes], "first_stream": 500, "tokens": tokens, "gguf_root": root,
            "logits": {str(i): logits[i] for i in (0, 1, 23)}, "greedy": [l.index(max(l)) for l in logits]}


def decoder_sizes(shape):
    """Names of a decoder's tensors with their rows and columns."""
    w, q, kv = shape["width"], shape["heads"] * shape["head"], shape["kv_heads"] * shape["head"]
    sizes = [("model.embed_tokens.weight", shape["vocab"], w), ("model.norm.weight", 1, w)]
    if not shape["tied"]:
        sizes.append(("lm_head.weight", shape["vocab"], w))
    for layer in range(shape["layers"]):
        at, mixtral = f"model.layers.{layer}.", shape["family"] == "mixtral"
        sizes += [(at + "input_layernorm.weight", 1, w), (at + "post_attention_layernorm.weight", 1, w)]
        sizes += [(f"{at}self_attn.{p}_proj.weight", rows, w) for p, rows in (("q", q), ("k", kv), ("v", kv))]
        sizes.append((at + "self_attn.o_proj.weight", w, q))
        if shape.get("biases"):
            sizes += [(f"{at}self_attn.{p}_proj.bias", 1, rows) for p, rows in (("q", q), ("k", kv), ("v", kv))]
        if shape.get("head_norm"):
            sizes += [(f"{at}self_attn.{p}_norm.weight", 1, shape["head"]) for p in "qk"]
        usual = ("gate_proj", "up_proj", "down_proj")
        gated = lambda before, ffn, names=usual: [
            (f"{at}{before}.{n}.weight", *size) for n, size in zip(names, ((ffn, w), (ffn, w), (w, ffn)))]
        experts = shape.get("experts")
        if not experts:
            sizes += gated("mlp", shape["ffn"])
            continue
        block = "block_sparse_moe" if mixtral else "mlp"
        for e in range(experts["count"]):
            sizes += gated(f"{block}.experts.{e}", experts["width"], ("w1", "w3", "w2") if mixtral else usual)
        sizes.append((f"{at}{block}.gate.weight", experts["count"], w))
        if experts["shared"]:
            sizes += gated("mlp.shared_expert", experts["shared"]) + [(at + "mlp.shared_expert_gate.weight", 1, w)]
    return sizes


def encoder_sizes(shape):
    """Names of an encoder's tensors with their rows and columns."""
    w, ffn, sizes = shape["width"], shape["ffn"], []
    for table, rows in (("word", shape["vocab"]), ("position", shape["context"]), ("token_type", 2)):
        sizes.append((f"embeddings.{table}_embeddings.weight", rows, w))
    norm = lambda name: [(name + ".LayerNorm.weight", 1, w), (name + ".LayerNorm.bias", 1, w)]
    sizes += norm("embeddings")
    for layer in range(shape["layers"]):
        at = f"encoder.layer.{layer}."
        sizes += norm(at + "attention.output") + norm(at + "output")
        for part, rows, columns in (("attention.self.query", w, w), ("attention.self.key", w, w), ("attention.self.value", w, w),
                                    ("attention.output.dense", w, w), ("intermediate.dense", ffn, w), ("output.dense", w, ffn)):
            sizes += [(f"{at}{part}.weight", rows, columns), (f"{at}{part}.bias", 1, rows)]
    return sizes


def vector_encoder():
    """An encoder of 59 tokens, its texts and their vectors."""
    cases = []
    for pooling in (1, 2):
        shape = {"width": 64, "layers": 2, "heads": 2, "kv_heads": 2, "head": 32, "ffn": 96, "context": 24, "vocab": 59,
                 "epsilon_q32": 0, "family": "bert", "encoder": {"token_types": 2, "pooling": pooling}}
        sizes, first = encoder_sizes(shape), 3800
        model, tokens = Model(shape, made_tensors(sizes, first)), numbers(24, 0, 58, 995)
        texts = [{"length": n, "dimensions": d, "q24": model.vector(tokens[:n], d)} for n, d in ((1, 0), (7, 0), (24, 5))]
        cases.append({"shape": shape, "tensors": [list(s) for s in sizes], "first_stream": first, "tokens": tokens,
                      "texts": texts})
    return {"cases": cases}


def made_tensors(sizes, first_stream):
    """Weight `j` of tensor `t` is an integer in [-512, 511] over 1,024, plus 1 for weights of norms."""
    tensors = {}
    for index, (name, rows, columns) in enumerate(sizes):
        more = 1024 if name.lower().endswith("norm.weight") else 0
        values = [(v + more, -10) for v in numbers(rows * columns, -512, 511, first_stream + index)]
        tensors[name] = [values[i : i + columns] for i in range(0, len(values), columns)]
    return tensors


def architectures():
    """Small models, one or more of each architecture."""
    usual = {"width": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head": 32, "ffn": 96, "context": 64, "vocab": 262,
             "tied": False, "rope_theta": 10000, "epsilon_q32": 42950}
    experts = {"count": 5, "chosen": 2, "width": 64, "shared": 0, "renormalise": True}
    yarn = {"type": "yarn", "factor": 4, "original": 24}
    return [
        {**usual, "family": "mistral", "windows": [5, 5]},
        {**usual, "family": "qwen2", "biases": True, "tied": True},
        {**usual, "family": "qwen3", "head_norm": True},
        {**usual, "family": "qwen3", "head_norm": True, "rope_scaling": yarn},
        {**usual, "family": "llama", "rope_scaling": {"type": "linear", "factor": 2, "original": 32}},
        {**usual, "family": "mixtral", "ffn": 64, "experts": experts},
        {**usual, "family": "qwen2moe", "biases": True,
         "experts": {**experts, "chosen": 3, "shared": 32, "renormalise": False}},
        {**usual, "family": "qwen3moe", "head_norm": True, "experts": experts},
    ]


def test_tokenizer():
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    others = [b for b in range(256) if b not in printable]
    pieces = [chr(b) if b in printable else chr(0x100 + others.index(b)) for b in range(256)]
    pieces += ["he", "ll", "hell", "<|begin|>", "<|end|>", "<|tool_call|>"]
    tokenizer = gguf_tokenizer(pieces, ["h e", "l l", "he ll"], range(259, 262))
    return tokenizer, "<|begin|>{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"


def vector_architectures():
    cases = []
    for number, shape in enumerate(architectures()):
        sizes, first = decoder_sizes(shape), 2000 + 200 * number
        model, tokens = Model(shape, made_tensors(sizes, first)), numbers(9, 0, 261, 990 + number)
        logits = [model.step(t) for t in tokens]
        cases.append({"shape": shape, "tensors": [list(s) for s in sizes], "first_stream": first, "tokens": tokens,
                      "gguf_root": model_root(model, 259, 260, *test_tokenizer()).hex(),
                      "greedy": [l.index(max(l)) for l in logits], "logits": logits[-1]})
    return {"cases": cases}


def vector_states():
    """Hashes of the logits after every token of many texts, of the Llama of model.json (case -1) and of the models of architectures.json."""
    cases, count, length = [], 18, 64
    for number, shape in [(-1, None), *enumerate(architectures())]:
        shape, tensors = (shape, made_tensors(decoder_sizes(shape), 2000 + 200 * number)) if shape else whole_model()[::2]
        texts, first_stream = [], 20000 + 100 * number
        for text in range(count):
            model, hasher = Model(shape, tensors), hashlib.sha256()
            for token in numbers(length, 0, 261, first_stream + text):
                hasher.update(b"".join(struct.pack(">i", x) for x in model.step(token)))
            texts.append(hasher.hexdigest())
        cases.append({"model": number, "length": length, "first_stream": first_stream, "sha256": texts})
    return {"cases": cases}


def vector_operators():
    """LayerNorm, norm of a head, GELU, choice and joining of experts, YaRN's frequencies."""
    norms = []
    for stream, (length, size) in enumerate([(32, 3), (64, 2**12), (96, 2**20), (64, 2**31 - 1)]):
        r, g = numbers(length, -size, size, 700 + stream), numbers(length, -32767, 32767, 720 + stream)
        bias = numbers(length, -(2**20), 2**20, 740 + stream)
        norms.append({"values": r, "weights": g, "bias": bias, "layer_norm": layer_norm(r, (g, -14), bias, 43),
                      "head_norm": head_norm(r, (g, -14), 43)})
    x = [-(2**31), 2**31 - 1, 0, 1, -1, 2**19, -(2**19), 2**19 - 1] + numbers(40, -(2**19), 2**19, 760)
    experts = []
    for stream, (count, chosen, size) in enumerate([(4, 2, 2**17), (8, 8, 2**15), (60, 4, 2**19), (5, 3, 2**31 - 1), (6, 3, 1)]):
        logits = numbers(count, -size, size, 770 + stream)
        for renormalise in (True, False):
            weights, total = choose(logits, chosen, renormalise)
            outputs = [numbers(32, -(2**30), 2**30 - 1, 780 + e) for e in range(chosen)]
            mixed = mix(outputs, [w for _, w in weights], total)
            experts.append({"logits": logits, "chosen": chosen, "renormalise": renormalise,
                            "weights": [list(w) for w in weights], "total": total, "first_output": 780, "mixed": mixed})
    rows = [numbers(32, -32767, 32767, 800 + e) for e in range(3)]
    n = numbers(32, -(2**31), 2**31 - 1, 810)
    yarns = []
    for base, head, scaling in [(1000000, 128, {"factor": 4, "original": 32768}), (10000, 64, {"factor": 40, "original": 4096}),
                                (10000, 32, {"factor": 2, "original": 64, "fast": 8, "slow": 2, "gain": 70000})]:
        freqs, gain = rotary({"rope_theta": base, "head": head, "rope_scaling": {"type": "yarn", **scaling}})
        factor = rs(query_factor(head) * gain**2, 32)
        yarns.append({"base": base, "head": head, **scaling, "frequencies_q64": [str(f) for f in freqs], "gain_q16": gain,
                      "query_factor": factor})
    return {"norms": norms, "weights_exponent": -14, "epsilon_q32": 43, "gelu": {"x": x, "h": gelu(x)}, "experts": experts,
            "router": {"rows": rows, "exponent": -17, "n": n, "logits": [route((row, -17), n) for row in rows]}, "yarn": yarns}


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
    named = [name for name in sys.argv[1:] if name != "--check"]
    makers = {"dot": vector_dot, "rmsnorm": vector_rmsnorm, "softmax": vector_softmax, "rope": vector_rope,
              "sampler": vector_sampler, "tables": vector_tables, "model": vector_model,
              "architectures": vector_architectures, "states": vector_states, "operators": vector_operators, "encoder": vector_encoder,
              "pooling": vector_pooling, "formats": vector_formats,
              "pieces": vector_pieces}
    for name in named or makers:
        make = makers[name]
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
