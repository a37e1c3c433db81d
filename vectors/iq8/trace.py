#!/usr/bin/env python3
"""Traces a second time, in plain Python, written from docs/trace.md on top of reference.py: roots of states, operators and tokens of small
models of every architecture, and the opening of one element.

`python3 vectors/iq8/trace.py` writes trace.json and opening.json again; `--check` only compares. Either way the opening is judged from its
JSON alone.
"""

import json
import os
import sys

from reference import (
    Model, add, adjust, architectures, choose, decoder_sizes, dot, embed, exp2w, head_norm, keccak, made_tensors, merkle, mix, model_leaves,
    multiply, numbers, quantise, query_factor, rms_norm, rotate, route, rs, sample, sat, sigm, swiglu, test_tokenizer, whole_model,
)

FOLD, VALUES = 1024, 256
be = lambda n, size=4: (n % 256**size).to_bytes(size, "big")


def digest(kind, *body):
    return keccak(keccak(b"stoa.trace.v1\0" + kind.encode() + b"\0" + b"".join(body)))


def tree(leaves):
    return merkle(leaves) if leaves else bytes(32)


def parts(values, size):
    return [values[i : i + size] for i in range(0, len(values), size)]


def cell(exponent, scales, q):
    return be(exponent) + b"".join(be(s, 2) for s in scales) + b"".join(be(x, 1) for x in q)


def output_leaves(form, values):
    """`form` is 4 or 8 for numbers of so many bytes, 0 for cells that are bytes already."""
    return values if form == 0 else [b"".join(be(v, form) for v in part) for part in parts(values, 32)]


def output_digests(leaves, first=0, total=None):
    return [digest("output", be(first + i), be(total or len(leaves)), leaf) for i, leaf in enumerate(leaves)]


def blocks_of(vector):
    q, scales, exponent = vector
    return [cell(exponent, [s], block) for s, block in zip(scales, parts(q, 32))]


def greatest(values, size=FOLD):
    return [max(part) for part in parts(values, size)]


class Trace:
    """A model's log, and the operators of the step that is being made."""

    def __init__(self, model):
        self.model, self.shape, self.operators, self.leaves = model, model.shape, [], []

    def put(self, name, form, values):
        self.leaves.append(output_leaves(form, values))
        self.operators.append((name, tree(output_digests(self.leaves[-1]))))
        return values

    def quantised(self, name, v, fraction):
        self.put(name + " magnitudes", 8, greatest([abs(x) for x in v]))
        vector = quantise(v, fraction, 16)
        self.put(name + " quantised", 0, blocks_of(vector))
        return vector

    def norm(self, name, r, number):
        self.put(name + " input magnitudes", 8, greatest([abs(x) for x in r]))
        cut = max(0, max(map(abs, r)).bit_length() - 23)
        self.put(name + " squares", 8, [sum((abs(x) >> cut) ** 2 for x in part) for part in parts(r, FOLD)])
        z, fraction = rms_norm(r, self.model.tensors[number], self.shape["epsilon_q32"])
        self.put(name, 8, z)
        return self.quantised(name, z, fraction)

    def heads(self, name, x, first, part, norm):
        d, y = self.shape["head"], self.put(name, 4, self.model.project(first, part, x))
        if self.shape.get("head_norm") and norm:
            y = sum((head_norm(h, self.model.tensors[first + norm], self.shape["epsilon_q32"]) for h in parts(y, d)), [])
            self.put(name + " head norm", 4, y)
        if name != "value":
            y = sum((rotate(h, self.model.freqs, self.model.length) for h in parts(y, d)), [])
            self.put(name + " rotation", 4, y)
        return parts(y, d)

    def attention(self, first, r):
        s, layer, x = self.shape, first // 65536 - 1, self.norm("attention norm", r, first)
        q, k = self.heads("query", x, first, 1, 13), self.heads("key", x, first, 2, 14)
        v = self.heads("value", x, first, 3, 0)
        factor = rs(query_factor(s["head"]) * self.model.gain**2, 32)
        q = [quantise([a * factor for a in head], 46, 16) for head in q]
        self.put("query quantised", 0, sum((blocks_of(head) for head in q), []))
        k, v = [quantise(h, 16, 15) for h in k], [quantise(h, 16, 15, whole=True) for h in v]
        self.put("key appended", 0, [cell(e, scales, a) for a, scales, e in k])
        self.put("value appended", 0, [cell(e, scales, a) for a, scales, e in v])
        for cache, key, value in zip(self.model.caches[layer], k, v):
            cache.append((key, value))
        window = (s.get("windows") or [0] * s["layers"])[layer] or 2**30
        seen = [cache[-window:] for cache in self.model.caches[layer]]
        group = s["heads"] // s["kv_heads"]
        scores = [[sat(rs(dot(key[:2], u), -(u[2] + key[2] + 16))) for key, _ in seen[i // group]] for i, u in enumerate(q)]
        self.put("scores", 4, sum(scores, []))
        self.put("largest scores", 8, sum((greatest(t) for t in scores), []))
        w = [[exp2w(max(t) - x) for x in t] for t in scores]
        self.put("softmax weights", 4, sum(w, []))
        self.put("softmax sums", 8, [sum(part) for head in w for part in parts(head, FOLD)])
        self.put("value scales", 4, [value[1][0] for head in seen for _, value in head])
        exponents = [[value[2] for _, value in head] for head in seen]
        self.put("value exponents", 4, sum(exponents, []))
        self.put("largest value exponents", 8, sum((greatest(e) for e in exponents), []))
        divided, b, sums, out = [], [], [], []
        for i, weights in enumerate(w):
            own, of = seen[i // group], exponents[i // group]
            a = [x * value[1][0] for x, (_, value) in zip(weights, own)]
            e = max(of)
            divided.append([x >> e - f for x, f in zip(a, of)])
            m = max(0, max(divided[-1]).bit_length() - 15)
            b.append([min(32767, rs(x, e - f + m)) for x, f in zip(a, of)])
            for column in range(s["head"]):
                terms = [x * value[0][column] for x, (_, value) in zip(b[-1], own)]
                sums += [sum(part) for part in parts(terms, VALUES)]
                out.append(sat(rs_wide(sum(terms) * (2**62 // sum(weights)), 62 - (e + m + 16))))
        self.put("largest blend products", 8, sum((greatest(x) for x in divided), []))
        self.put("blend weights", 4, sum(b, []))
        self.put("blend sums", 8, sums)
        self.put("attended", 4, out)
        vector = self.quantised("attended", out, 16)
        return self.put("attention residual", 4, add(r, self.model.project(first, 4, vector)))

    def gated(self, prefix, at, x):
        """The quantised product of gate and up, whose tensors begin at `at`."""
        gate = self.put(prefix + "gate", 4, multiply(self.model.tensors[at], x))
        up = self.put(prefix + "up", 4, multiply(self.model.tensors[at + 1], x))
        h = self.put(prefix + "hidden", 8, swiglu(gate, up))
        return self.quantised(prefix + "hidden", h, 32)

    def feed_forward(self, first, r):
        tensors, experts = self.model.tensors, self.shape.get("experts")
        x = self.norm("feed-forward norm", r, first + 5)
        if not experts:
            down = multiply(tensors[first + 8], self.gated("", first + 6, x))
            return self.put("feed-forward residual", 4, add(r, down))
        n = self.put("router input", 4, head_norm(r, tensors[first + 5], self.shape["epsilon_q32"]))
        logits = self.put("router", 4, [route(tensors[first + 64 + 4 * e + 3], n) for e in range(experts["count"])])
        chosen, total = choose(logits, experts["chosen"], experts["renormalise"])
        self.put("chosen experts", 8, [x for pair in chosen for x in pair] + [total])
        outputs = []
        for place, (e, _) in enumerate(chosen):
            at, prefix = first + 64 + 4 * e, f"expert {place} "
            outputs.append(self.put(prefix + "down", 4, multiply(tensors[at + 2], self.gated(prefix, at, x))))
        o = mix(outputs, [weight for _, weight in chosen], total)
        if experts["shared"]:
            says = self.put("shared router", 4, [route(tensors[first + 23], n)])[0]
            y = self.put("shared down", 4, multiply(tensors[first + 22], self.gated("shared ", first + 20, x)))
            o = [sat(a + rs(b * sigm(says), 31)) for a, b in zip(o, y)]
        return self.put("feed-forward residual", 4, add(r, o))

    def step(self, token, choice=None):
        """The step root, the residual's root and the chosen token; `choice` has parameters, seed and what is chosen so far."""
        self.operators, self.leaves, chosen = [], [], None
        r = self.put("embedding", 4, embed(self.model.tensors[0], token))
        for layer in range(self.shape["layers"]):
            first = 65536 * (layer + 1)
            r = self.feed_forward(first, self.attention(first, r))
        residual = self.operators[-1][1]
        self.model.length += 1
        if choice is not None:
            x = self.norm("output norm", r, 1)
            logits = self.put("logits", 4, multiply(self.model.tensors.get(2, self.model.tensors[0]), x))
            p = choice["parameters"]
            if p["logit_bias"] or p["presence_penalty"] or p["frequency_penalty"]:
                bias = {int(i): b for i, b in p["logit_bias"].items()}
                logits = adjust(logits, bias, p["presence_penalty"], p["frequency_penalty"], choice["answer"])
                self.put("adjusted logits", 4, logits)
            self.put("largest logits", 8, greatest(logits))
            chosen = sample(logits, p["temperature"], p["min_p"], int(p["seed"]), self.model.length)
            self.put("token", 8, [chosen])
        count = len(self.operators)
        leaves = [digest("operator", be(i), be(count), root) for i, (_, root) in enumerate(self.operators)]
        return tree(leaves), residual, chosen

    def log(self):
        roots = []
        for layer in self.model.caches:
            for cache in layer:
                for kind in (0, 1):
                    cells = [cell(entry[kind][2], entry[kind][1], entry[kind][0]) for entry in cache]
                    roots.append(tree([digest("entry", be(i), bytes_) for i, bytes_ in enumerate(cells)]))
        return tree([digest("entries", be(i), be(len(roots)), be(self.model.length), root) for i, root in enumerate(roots)])

    def state(self, residual):
        """What a state's root hashes."""
        return {"position": self.model.length, "residual": residual, "log": self.log()}


def rs_wide(x, k):
    """rs of a product that may have 128 bits: exact, then limited."""
    y = x << -k if k <= 0 else (abs(x) + (1 << k - 1) >> k) * (1 if x >= 0 else -1)
    return max(-(2**63), min(2**63 - 1, y))


def state_root(state):
    return digest("state", be(state["position"]), state["residual"], state["log"])


def token_root(claim):
    return digest("token", be(claim["token"]), state_root(claim["before"]), claim["step"], state_root(claim["after"]))


def run(model, prompt, count, parameters):
    """A job whose answer is made here: its last step, its answer, and what is claimed of each step."""
    made, answer, claims = Trace(model), [], []
    before = made.state(bytes(32))
    while len(answer) < count:
        position = model.length
        token = (prompt + answer)[position]
        choice = {"parameters": parameters, "answer": answer} if position + 1 >= len(prompt) else None
        step, residual, chosen = made.step(token, choice)
        after = made.state(residual)
        claims.append({"token": token, "before": before, "step": step, "after": after})
        before = after
        answer += [chosen] if choice else []
    return made, answer, claims


def trace(model, prompt, count, parameters):
    """Roots of a job, and the operators of its last step."""
    made, answer, claims = run(model, prompt, count, parameters)
    states = [state_root(claims[0]["before"])] + [state_root(claim["after"]) for claim in claims]
    root = tree([digest("trace", be(i), be(len(states)), state) for i, state in enumerate(states)])
    return {"prompt": prompt, "answer": answer, "parameters": parameters, "trace_root": root.hex(),
            "state_roots": [s.hex() for s in states], "token_roots": [token_root(claim).hex() for claim in claims],
            "operators": [[name, root.hex()] for name, root in made.operators]}


def cases():
    shape, sizes, tensors = whole_model()
    usual = {"temperature": 0, "min_p": 0, "seed": "0", "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0}
    yield shape, sizes, 500, tensors, numbers(3, 0, 255, 900), usual
    for number, shape in enumerate(architectures()):
        sizes, first = decoder_sizes(shape), 2000 + 200 * number
        parameters = {**usual, "temperature": 70000 + number, "min_p": 900 * (number % 3), "seed": str(2**40 + number)}
        if number % 2:
            parameters.update(logit_bias={"7": 90000, "260": -200000}, presence_penalty=30000, frequency_penalty=-1000)
        # Longer than the windows of five.
        length = 6 if shape.get("windows") else 2
        yield shape, sizes, first, made_tensors(sizes, first), numbers(length, 0, 255, 990 + number), parameters


def vectors():
    made = []
    for shape, sizes, first, tensors, prompt, parameters in cases():
        case = {"shape": shape, "tensors": [list(s) for s in sizes], "first_stream": first}
        made.append({**case, **trace(Model(shape, tensors), prompt, 2, parameters)})
    return {"cases": made}


# Openings, section 4


def pair(a, b):
    return keccak(min(a, b) + max(a, b))


def prove(level, first, count):
    """Siblings that prove neighbouring leaves together."""
    siblings, end = [], first + count
    while len(level) > 1:
        siblings += [level[first - 1]] if first % 2 else []
        siblings += [level[end]] if end % 2 and end < len(level) else []
        level = [pair(*level[i : i + 2]) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
        first, end = first // 2, (end + 1) // 2
    return siblings


def root_of(nodes, first, total, siblings):
    """The root that neighbouring leaves of a tree of so many lead to."""
    siblings = list(siblings)
    while total > 1:
        end = first + len(nodes)
        nodes = ([siblings.pop(0)] if first % 2 else []) + nodes
        nodes += [siblings.pop(0)] if end % 2 and end < total else []
        nodes = [pair(*nodes[i : i + 2]) if i + 1 < len(nodes) else nodes[i] for i in range(0, len(nodes), 2)]
        first, total = first // 2, (total + 1) // 2
    assert not siblings and len(nodes) == 1
    return nodes[0]


def opening():
    """An element of the last product of a layer: three cells of a vector, a row of a matrix, a number that it is added to."""
    shape, _, _, tensors, prompt, parameters = next(cases())
    model = Model(shape, tensors)
    made, answer, claims = run(model, prompt, 2, parameters)
    names, element, tensor = [name for name, _ in made.operators], 40, 2 * 65536 + 8
    last = lambda name: len(names) - 1 - names[::-1].index(name)
    product, vector, onto = last("feed-forward residual"), last("hidden quantised"), last("attention residual")
    operators = [digest("operator", be(i), be(len(names)), root) for i, (_, root) in enumerate(made.operators)]
    shown = lambda digests: ["0x" + d.hex() for d in digests]
    outputs = []
    for number, first, count in sorted([(vector, 0, 3), (onto, element // 32, 1), (product, element // 32, 1)]):
        leaves = made.leaves[number]
        run_of = {"first": first, "leaves": [leaf.hex() for leaf in leaves[first : first + count]],
                  "siblings": shown(prove(output_digests(leaves), first, count))}
        outputs.append({"operator": number, "root": "0x" + made.operators[number][1].hex(), "siblings": shown(prove(operators, number, 1)),
                        "runs": [run_of]})
    leaves, places = model_leaves(model, 259, 260, *test_tokenizer())
    (q, scales), exponent = model.tensors[tensor][0][element], model.tensors[tensor][1]
    row = {"tensor": tensor, "row": element, "bytes": cell(exponent, scales, q).hex(),
           "siblings": shown(prove(leaves, places[tensor] + element, 1))}
    state = lambda s: {"position": s["position"], "residual": "0x" + s["residual"].hex(), "log": "0x" + s["log"].hex()}
    claim = claims[-1]
    return {"model_root": "0x" + merkle(leaves).hex(), "config_proof": shown(prove(leaves, 0, 1)), "tied": 2 not in model.tensors,
            "prompt": prompt, "answer": answer, "token_root": "0x" + token_root(claim).hex(), "operators": len(names),
            "lengths": {str(n): len(made.leaves[n]) for n in (vector, onto, product)}, "vector": vector, "onto": onto,
            "opening": {"claim": {"token": claim["token"], "before": state(claim["before"]), "step": "0x" + claim["step"].hex(),
                                  "after": state(claim["after"])},
                        "subject": {"element": {"operator": product, "element": element}}, "outputs": outputs, "tensors": [row]}}


def judge(file):
    """Whether the element of a product follows, from what the JSON proves alone. How many operators and leaves there are follows from the
    shape, and is given with it."""
    raw = lambda text: bytes.fromhex(text.removeprefix("0x"))
    given, claim = file["opening"], file["opening"]["claim"]
    state = lambda s: {"position": s["position"], "residual": raw(s["residual"]), "log": raw(s["log"])}
    made = {"token": claim["token"], "before": state(claim["before"]), "step": raw(claim["step"]), "after": state(claim["after"])}
    assert token_root(made) == raw(file["token_root"])
    opened = {}
    for output in given["outputs"]:
        number, root, count = output["operator"], raw(output["root"]), file["operators"]
        leaf = digest("operator", be(number), be(count), root)
        assert root_of([leaf], number, count, map(raw, output["siblings"])) == made["step"]
        for part in output["runs"]:
            leaves, total = [raw(leaf) for leaf in part["leaves"]], file["lengths"][str(number)]
            digests = output_digests(leaves, part["first"], total)
            assert root_of(digests, part["first"], total, map(raw, part["siblings"])) == root
            opened.update({(number, part["first"] + i): leaf for i, leaf in enumerate(leaves)})
    (row,) = given["tensors"]
    node = keccak(keccak(b"stoa.iq8.v1\0row\0" + be(row["tensor"]) + be(row["row"]) + raw(row["bytes"])))
    for sibling in map(raw, row["siblings"]):
        node = pair(node, sibling)
    assert node == raw(file["model_root"])
    signed = lambda b: int.from_bytes(b, "big", signed=True)
    element, number = given["subject"]["element"]["element"], given["subject"]["element"]["operator"]
    numbers_of = lambda operator: [signed(part) for part in parts(opened[operator, element // 32], 4)]
    weights, total = raw(row["bytes"]), 0
    blocks = (len(weights) - 4) // 34
    for block in range(blocks):
        x = opened[file["vector"], block]
        scale = int.from_bytes(weights[4 + 2 * block : 6 + 2 * block], "big") * int.from_bytes(x[4:6], "big")
        q = weights[4 + 2 * blocks + 32 * block :][:32]
        total += scale * sum(signed(q[i : i + 1]) * signed(x[6 + i : 7 + i]) for i in range(32))
    exponent = signed(weights[:4]) + signed(opened[file["vector"], 0][:4]) + 16
    follows = sat(numbers_of(file["onto"])[element % 32] + sat(rs(total, -exponent)))
    return follows == numbers_of(number)[element % 32]


def main():
    folder = os.path.dirname(os.path.abspath(__file__))
    for name, make in (("trace", vectors), ("opening", opening)):
        path, text = os.path.join(folder, name + ".json"), json.dumps(make()) + "\n"
        if "--check" in sys.argv:
            with open(path, encoding="utf-8") as file:
                assert file.read() == text, f"{name}.json differs from what this program makes"
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        print(name, "checked" if "--check" in sys.argv else "written", len(text), "bytes")
    with open(os.path.join(folder, "opening.json"), encoding="utf-8") as file:
        assert judge(json.load(file)), "the opened element does not follow"


if __name__ == "__main__":
    main()
