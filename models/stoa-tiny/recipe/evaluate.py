"""Score the GGUF on the held-out tasks by greedy decoding in llama.cpp (float arithmetic), per task family."""

import argparse
import json
import os
import re
import time

import jinja2
import xllamacpp
from tokenizers import Tokenizer


def renderer(folder):
    """A function from messages and tools to the prompt, as Hugging Face renders templates."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    with open(os.path.join(folder, "chat_template.jinja"), encoding="utf-8") as file:
        template = environment.from_string(file.read())
    return lambda messages, tools=None: template.render(messages=messages, tools=tools, add_generation_prompt=True)


class Engine:
    """Greedy decoding of a GGUF file."""

    def __init__(self, folder, threads=1):
        params = xllamacpp.CommonParams()
        params.model.path = os.path.join(folder, "stoa-tiny.Q8_0.gguf")
        params.n_ctx, params.n_parallel, params.warmup, params.special = 1024, 1, False, True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        self.server = xllamacpp.Server(params)
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.decoded = 0

    def answer(self, prompt, limit=200):
        """The text up to the end marker, markers kept."""
        ids = self.tokenizer.encode(prompt).ids
        reply = self.server.handle_completions(
            {"prompt": ids, "max_tokens": limit, "temperature": 0.0, "top_k": 1, "cache_prompt": False}
        )
        self.decoded += reply["usage"]["completion_tokens"]
        return reply["choices"][0]["text"].removesuffix("<|end|>")


def parsed_call(text):
    """The tool call in an answer, or None when it is not a valid one."""
    if not text.startswith("<|tool_call|>"):
        return None
    try:
        call = json.loads(text.removeprefix("<|tool_call|>"))
    except ValueError:
        return None
    good = isinstance(call, dict) and set(call) == {"name", "arguments"} and isinstance(call["arguments"], dict)
    return call if good else None


def right(task, text, known):
    """Whether an answer is the expected one."""
    if task["check"] == "call":
        expected = {"name": task["answer"]["name"], "arguments": json.loads(task["answer"]["arguments"])}
        return parsed_call(text) == expected
    if task["check"] == "story":
        words = re.findall(r"\w+", text)
        names = {w for w in words if w in known}
        complete = text.rstrip('"').endswith(".") and text.count('"') % 2 == 0
        return complete and len(words) >= 25 and len(names) == 2 and all(w in words for w in task["words"])
    return text == task["answer"]


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("folder", help="the folder of the model")
    args.add_argument("--first", type=int, default=0, help="only so many tasks of each family")
    args.add_argument("--wrong", action="store_true", help="print the wrong answers")
    args = args.parse_args()
    with open(os.path.join(args.folder, "heldout.jsonl"), encoding="utf-8") as lines:
        tasks = [json.loads(line) for line in lines]
    known = set()
    for task in tasks:
        if task["check"] == "story":
            known |= set(re.findall(r"(?<=[a-z] )[A-Z]\w+", task["answer"]))
    render, engine, score = renderer(args.folder), Engine(args.folder), {}
    calls, started = [0, 0], time.process_time()
    for task in tasks:
        counts = score.setdefault(task["family"], [0, 0])
        if args.first and counts[1] >= args.first:
            continue
        text = engine.answer(render(task["messages"], task.get("tools")))
        ok = right(task, text, known)
        counts[0] += ok
        counts[1] += 1
        if task["check"] == "call":
            calls[0] += parsed_call(text) is not None
            calls[1] += 1
        if args.wrong and not ok:
            print(task["family"], "|", task["messages"][-1]["content"], "|", text, "|", task["answer"])
    for family, (good, count) in score.items():
        print(f"{family:12} {good:4}/{count:<4} {100 * good / count:6.1f} %")
    good, count = (sum(column) for column in zip(*score.values()))
    print(f"{'overall':12} {good:4}/{count:<4} {100 * good / count:6.1f} %")
    print(f"valid tool-call JSON {calls[0]}/{calls[1]}")
    print(f"{engine.decoded / (time.process_time() - started):.0f} tokens decoded per CPU second, prompts included in the time")


if __name__ == "__main__":
    main()
