#!/usr/bin/env python3
"""Compare the exact engine with llama.cpp (PyPI `xllamacpp`) on one GGUF: greedy answers, and decoded tokens per CPU second.

    cargo run --release -p stoa-engine --example evaluate -- models/stoa-tiny answers > answers.jsonl
    python3 crates/engine/examples/against_llama_cpp.py models/stoa-tiny/stoa-tiny.Q8_0.gguf answers.jsonl
"""

import json
import os
import re
import statistics
import sys
import time

import xllamacpp

PROMPT, DECODED = 128, 256


def server(path):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def complete(engine, prompt, limit, **more):
    """Text of the answer without control tokens, and its number of tokens."""
    request = {"prompt": prompt, "max_tokens": limit, "temperature": 0.0, "top_k": 1, "cache_prompt": False, **more}
    reply = engine.handle_completions(request)
    reply = reply if isinstance(reply, dict) else json.loads(reply)
    return reply["choices"][0]["text"], reply["usage"]["completion_tokens"]


def cpu_seconds(work):
    started = time.process_time()
    work()
    return time.process_time() - started


def main():
    path, answers = sys.argv[1:]
    engine = server(path)
    with open(answers, encoding="utf-8") as lines:
        tasks = [json.loads(line) for line in lines]
    markers = re.compile(r"<\|\w+\|>")
    same, lengths = 0, []
    for task in tasks:
        theirs = markers.sub("", complete(engine, task["prompt"], 200)[0])
        same += theirs == task["text"]
        if theirs != task["text"]:
            lengths.append(len(os.path.commonprefix([theirs, task["text"]])))
    print(f"the same greedy answer: {same} of {len(tasks)}; the others part after {sorted(lengths)} letters")
    prompt = [token for task in tasks for token in task["prompt"]][:PROMPT]
    rates = []
    for _ in range(5):
        alone = cpu_seconds(lambda: complete(engine, prompt, 1))
        count = 0

        def long_answer():
            nonlocal count
            count = complete(engine, prompt, DECODED, ignore_eos=True)[1]

        whole = cpu_seconds(long_answer)
        rates.append((PROMPT / alone, (count - 1) / (whole - alone)))
    prefill, decode = (statistics.median(column) for column in zip(*rates))
    print(f"llama.cpp, one thread: prefill {prefill:.0f} tokens/cpu-s, decode {decode:.0f} tokens/cpu-s (medians of 5)")


if __name__ == "__main__":
    main()
