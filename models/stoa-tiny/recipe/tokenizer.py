"""Train the byte-level BPE of 1,024 pieces and write tokenizer.json.

No piece joins a space or a digit with anything: a word has the same pieces at the start of a text, after a space and inside JSON quotes,
and every digit is one piece. Copying, which most tasks are made of, then is copying of pieces. At run time the plain GPT-2 byte-level
pre-tokenizer is enough, because no merge crosses these borders.
"""

import argparse
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|bos|>", "<|end|>", "<|tools|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tool_call|>"]
PIECES = 1024


def texts(path, limit):
    """The first documents of the corpus, without role markers."""
    with open(path, encoding="utf-8") as lines:
        for index, line in enumerate(lines):
            if index == limit:
                return
            text = json.loads(line)["t"]
            for mark in SPECIAL:
                text = text.replace(mark, "\n")
            yield text


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("corpus", help="train.jsonl")
    args.add_argument("out", help="tokenizer.json to write")
    args.add_argument("--documents", type=int, default=100_000)
    args = args.parse_args()
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" |\d"), "isolated"), plain]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(args.corpus, args.documents), trainer)
    tokenizer.pre_tokenizer = plain
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    assert tokenizer.get_vocab_size() == PIECES
    tokenizer.save(args.out)


if __name__ == "__main__":
    main()
