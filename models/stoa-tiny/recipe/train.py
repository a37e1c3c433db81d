"""Train the default model. Resumable: start it again with the same --out and it goes on from the last checkpoint.

The learning rate warms up, stays, and falls linearly over the last part of the steps. Matrices are trained by Muon, the
embedding and the gains by AdamW. With --start it goes on from weights that were exported, as a further stage: at a lower rate (--rate)
and without the opening on short rows (--short-first 0). With --teacher it learns, beside the text, what another model of the same
tokenizer expects at every place: that is how a draft model is made.
"""

import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from model import SHAPES, Llama

LENGTHS = (128, 256, 1024)
# Long rows cost several times as much per token, so they are drawn half as often as they have tokens.
SHARES = (1.0, 1.0, 0.5)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz steps; matrices of one shape go together."""

    def __init__(self, params, lr, momentum=0.95, decay=0.01):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(tuple(p.shape), []).append(p)
            for shape, params in shapes.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, orthogonal(torch.stack(updates))):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-scale)


def orthogonal(g):
    """Five Newton-Schulz steps towards the nearest half-orthogonal matrix, for a stack of matrices."""
    x = (g / (g.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.transpose(1, 2) if tall else x).float()


def weights_of(path):
    """The weights of a safetensors file in float32."""
    return {name: weight.float() for name, weight in load_file(path).items()}


def losses(model, teacher, tokens, segments, weight):
    """The mean loss over weighted tokens, and that of the text itself over the answers, which is printed."""
    scores = model.logits(model.hidden(tokens, segments))[:, :-1].flatten(0, 1)
    text = F.cross_entropy(scores, tokens[:, 1:].flatten(), reduction="none")
    weight = weight[:, 1:].flatten()
    sure, loss = weight == 1.0, text
    if teacher is not None:
        with torch.no_grad():
            expected = teacher.logits(teacher.hidden(tokens, segments))[:, :-1].flatten(0, 1).softmax(-1)
        loss = (text + F.cross_entropy(scores, expected, reduction="none")) / 2
    return (loss * weight).sum() / weight.sum(), (text.detach() * sure).sum() / sure.sum()


def rate(step, steps, fall, warm=100):
    """The factor of the learning rate at a step."""
    return min((step + 1) / warm, 1.0, max((steps - step) / (fall * steps), 0.0))


class Batches:
    """Rows of one length in a seeded order, a new order each time all have been seen."""

    def __init__(self, packed, length, tokens, seed):
        self.tokens, self.segments, self.weights = (packed[f"{part}_{length}"] for part in ("tokens", "segments", "weights"))
        self.count, self.seed = tokens // length, seed

    def batch(self, index):
        per_round = len(self.tokens) // self.count
        order = np.random.default_rng([self.seed, index // per_round]).permutation(len(self.tokens))
        rows = np.sort(order[index % per_round * self.count :][: self.count])
        tokens = torch.from_numpy(self.tokens[rows].astype(np.int64))
        segments = torch.from_numpy(self.segments[rows].astype(np.int64))
        weight = torch.from_numpy(self.weights[rows].astype(np.float32)) / 100
        weight[:, 1:] *= segments[:, 1:] == segments[:, :-1]
        return tokens, segments, weight


def schedule(buckets, seed, short_first, steps=100_000):
    """Per step, which bucket and its how manieth batch; drawn by its tokens and share, the first `short_first` from the short rows."""
    sizes = np.array([b.tokens.size * share for b, share in zip(buckets, SHARES)])
    plan, used = [], [0] * len(buckets)
    for step, bucket in enumerate(np.random.default_rng(seed).choice(len(buckets), steps, p=sizes / sizes.sum())):
        bucket = 0 if step < short_first else bucket
        plan.append((int(bucket), used[bucket]))
        used[bucket] += 1
    return plan


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("packed", help="packed rows, .npz")
    args.add_argument("out", help="folder of the checkpoints")
    args.add_argument("--steps", type=int, default=3700)
    args.add_argument("--stop", type=int, help="end at this step, before the rate has fallen to nothing, for a further stage")
    args.add_argument("--fall", type=float, default=0.55, help="the last part of the steps, in which the rate falls to nothing")
    args.add_argument("--shape", choices=SHAPES, default="stoa-tiny")
    args.add_argument("--teacher", help="a safetensors file of the shape stoa-tiny whose expectations are learnt beside the text")
    args.add_argument("--start", help="a safetensors file with the weights to start from; without it they are random")
    args.add_argument("--rate", type=float, default=1.0, help="a factor of both learning rates")
    args.add_argument("--short-first", type=int, default=500, help="steps on the short rows only: copying forms sooner there, and they are cheap")
    args.add_argument("--tokens", type=int, default=4096, help="tokens of a step")
    args.add_argument("--seed", type=int, default=34)
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--save-minutes", type=float, default=5)
    args.add_argument("--no-compile", action="store_true")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    os.makedirs(args.out, exist_ok=True)
    model, teacher = Llama(SHAPES[args.shape]), None
    if args.start:
        model.load_state_dict(weights_of(args.start))
    if args.teacher:
        teacher = Llama(SHAPES["stoa-tiny"]).requires_grad_(False)
        teacher.load_state_dict(weights_of(args.teacher))
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() == 1 or "embed" in n]
    optimizers = [Muon(matrices, 0.02), torch.optim.AdamW(others, 3e-3, betas=(0.9, 0.95), weight_decay=0.0)]
    base = [o.param_groups[0]["lr"] * args.rate for o in optimizers]
    path, step = os.path.join(args.out, "checkpoint.pt"), 0
    if os.path.exists(path):
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        step = saved["step"]
        print("goes on from step", step, flush=True)
    packed = {k: v for k, v in np.load(args.packed).items()}
    buckets = [Batches(packed, length, args.tokens, args.seed) for length in LENGTHS]
    plan = schedule(buckets, args.seed, args.short_first)

    def loss_of(tokens, segments, weight):
        return losses(model, teacher, tokens, segments, weight)

    run = loss_of if args.no_compile else torch.compile(loss_of, dynamic=False)

    def save():
        state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
        torch.save(state, path + ".new")
        os.replace(path + ".new", path)

    started = saved_at = time.time()
    mean, first = None, step
    while step < min(args.steps, args.stop or args.steps):
        bucket, index = plan[step]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, answer = run(*buckets[bucket].batch(index))
        loss.backward()
        for optimizer, lr in zip(optimizers, base):
            optimizer.param_groups[0]["lr"] = lr * rate(step, args.steps, args.fall)
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        mean = answer.item() if mean is None else 0.95 * mean + 0.05 * answer.item()
        if step % 25 == 0:
            speed = (step - first) * args.tokens / (time.time() - started)
            print(f"step {step} answer loss {mean:.4f} tokens/s {speed:.0f} cpu-s {time.process_time():.0f}", flush=True)
        if time.time() - saved_at > 60 * args.save_minutes:
            save()
            saved_at = time.time()
    save()
    print(f"done: {step} steps, {time.time() - started:.0f} s, {time.process_time():.0f} cpu-s", flush=True)


if __name__ == "__main__":
    main()
