"""Compare greedy answers of the F16 safetensors in PyTorch with those of the Q8_0 GGUF in llama.cpp."""

import argparse
import json
import os

import torch
from safetensors.torch import load_file

from evaluate import Engine, renderer
from model import Llama


@torch.no_grad()
def greedy(model, ids, end, limit):
    """Token ids after `ids`, up to the end marker, and the smallest gap between the best two scores on the way."""
    out, gap = [], float("inf")
    while len(out) < limit:
        best = model(torch.tensor([ids + out]))[0, -1].topk(2)
        if best.indices[0] == end:
            break
        gap = min(gap, (best.values[0] - best.values[1]).item())
        out.append(int(best.indices[0]))
    return out, gap


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("folder")
    args.add_argument("--count", type=int, default=40, help="how many held-out prompts, spread over the families")
    args = args.parse_args()
    torch.set_num_threads(1)
    model = Llama()
    state = {k: v.float() for k, v in load_file(os.path.join(args.folder, "model.safetensors")).items()}
    model.load_state_dict(state)
    with open(os.path.join(args.folder, "heldout.jsonl"), encoding="utf-8") as lines:
        tasks = [json.loads(line) for line in lines]
    engine, render = Engine(args.folder), renderer(args.folder)
    end = engine.tokenizer.token_to_id("<|end|>")
    same, tasks = 0, tasks[:: max(1, len(tasks) // args.count)]
    for task in tasks:
        prompt = render(task["messages"], task.get("tools"))
        tokens, gap = greedy(model, engine.tokenizer.encode(prompt).ids, end, 160)
        ours, theirs = engine.tokenizer.decode(tokens, skip_special_tokens=False), engine.answer(prompt, 160)
        same += ours == theirs
        if ours != theirs:
            print(f"{task['family']}: smallest gap of scores {gap:.3f}\n  pytorch   {ours}\n  llama.cpp {theirs}")
    print(f"equal greedy answers: {same} of {len(tasks)}")


if __name__ == "__main__":
    main()
