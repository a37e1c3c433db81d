"""Turn the corpus into packed rows of tokens: a document goes into rows of 128, 256 or 1,024 tokens, the shortest that hold it, or
into what is left of the next longer one."""

import argparse
import json

import numpy as np
from tokenizers import Tokenizer

PROMPT_WEIGHT = 10
ANSWER_WEIGHT = 100
# Long texts of which much is chance, or which are learnt by heart, would drown the short answers.
LIGHT_WEIGHT = 50
LIGHT = ("story", "plain", "refusal")
LENGTHS = (128, 256, 1024)


def weights(ids, family, assistant, end):
    """Per token, how much its prediction counts: an answer fully, the rest a little; a text without roles fully."""
    inside = assistant not in ids
    full = LIGHT_WEIGHT if family in LIGHT else ANSWER_WEIGHT
    out = []
    for token in ids:
        out.append(full if inside else PROMPT_WEIGHT)
        if token == assistant:
            inside = True
        elif token == end and assistant in ids:
            inside = False
    return out


class Rows:
    """Rows of one length, filled first-fit from a window of open rows."""

    def __init__(self, length, window=48):
        self.length, self.window, self.open, self.done = length, window, [], []

    def room(self, ids):
        """The first open row that still holds `ids`, or None."""
        return next((row for row in self.open if len(row[0]) + len(ids) <= self.length), None)

    def add(self, ids, weight):
        row = self.room(ids)
        if row is None:
            if len(self.open) == self.window:
                fullest = max(range(self.window), key=lambda i: len(self.open[i][0]))
                self.done.append(self.open.pop(fullest))
            row = ([], [], [])
            self.open.append(row)
        row[0].extend(ids)
        row[1].extend([row[1][-1] + 1 if row[1] else 1] * len(ids))
        row[2].extend(weight)

    def arrays(self):
        rows = self.done + self.open
        out = [np.zeros((len(rows), self.length), d) for d in (np.uint16, np.uint8, np.uint8)]
        for i, row in enumerate(rows):
            for array, values in zip(out, row):
                array[i, : len(values)] = values
        return out


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("corpus", help="train.jsonl")
    args.add_argument("tokenizer", help="tokenizer.json")
    args.add_argument("out", help="packed rows to write, .npz")
    args = args.parse_args()
    tokenizer = Tokenizer.from_file(args.tokenizer)
    assistant, end = tokenizer.token_to_id("<|assistant|>"), tokenizer.token_to_id("<|end|>")
    buckets, left_out = [Rows(length, 6144 // length) for length in LENGTHS], 0
    with open(args.corpus, encoding="utf-8") as lines:
        while batch := [json.loads(line) for _, line in zip(range(2000), lines)]:
            for document, encoding in zip(batch, tokenizer.encode_batch([d["t"] for d in batch])):
                ids = encoding.ids
                fitting = [rows for rows in buckets if len(ids) <= rows.length]
                if not fitting:
                    left_out += 1
                    continue
                rows = next((rows for rows in reversed(fitting[:2]) if rows.room(ids)), fitting[0])
                rows.add(ids, weights(ids, document["f"], assistant, end))
    packed = {}
    for rows in buckets:
        tokens, segments, weight = rows.arrays()
        for name, array in (("tokens", tokens), ("segments", segments), ("weights", weight)):
            packed[f"{name}_{rows.length}"] = array
        print("rows", tokens.shape, "filled", round(float((segments > 0).mean()), 3), "answers", round(float((weight > PROMPT_WEIGHT).mean()), 3))
    print("documents longer than the context, left out:", left_out)
    np.savez(args.out, **packed)


if __name__ == "__main__":
    main()
