#!/usr/bin/env python3
"""Compare the exact engine with llama.cpp (PyPI `xllamacpp`) on small models of each architecture: distance of the distributions.

    cargo run --release -p stoa-engine --example architectures -- FOLDER
    python3 crates/engine/examples/architectures_against_llama_cpp.py FOLDER
"""

import glob
import json
import math
import os
import sys

import xllamacpp


def server(path):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def log_probabilities(engine, prompt, vocabulary):
    """Natural logarithms of the probabilities of the next token, by id."""
    request = {"prompt": prompt, "max_tokens": 1, "temperature": 1.0, "logprobs": vocabulary, "n_probs": vocabulary,
               "cache_prompt": True, "ignore_eos": True}
    reply = engine.handle_completions(request)
    reply = reply if isinstance(reply, dict) else json.loads(reply)
    # A control token that is chosen has no text, and the server tells nothing of it.
    if not reply["choices"][0]["logprobs"]:
        return None
    content = reply["choices"][0]["logprobs"]["content"][0]
    return {entry["id"]: entry["logprob"] for entry in content["top_logprobs"]}


def main():
    folder = sys.argv[1]
    for path in sorted(glob.glob(f"{folder}/*.gguf")):
        with open(path.removesuffix("gguf") + "json", encoding="utf-8") as file:
            made = json.load(file)
        engine, rows = server(path), made["log_probabilities"]
        distance, same = [], 0
        for length, ours in enumerate(rows, 1):
            theirs = log_probabilities(engine, made["tokens"][:length], len(ours))
            if theirs is None:
                continue
            assert len(theirs) == len(ours), f"{len(theirs)} probabilities of {len(ours)}"
            distance.append(sum(math.exp(p) * (p - ours[token]) for token, p in theirs.items()))
            same += max(theirs, key=theirs.get) == max(range(len(ours)), key=ours.__getitem__)
        print(f"{os.path.basename(path)}: mean KL {sum(distance) / len(distance):.6f}, worst {max(distance):.4f}, "
              f"same first choice {same} of {len(distance)}", flush=True)


if __name__ == "__main__":
    main()
