"""The openai package with nothing changed but base_url and api_key: plain and streamed chat, completions, embeddings, models, errors."""

import array
import json
import math
import sys

import openai

base_url, api_key = sys.argv[1:3]
client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)

models = client.models.list().data
assert models, "no model is listed"
model = models[0].id
assert client.models.retrieve(model).id == model

messages = [{"role": "user", "content": "Hello"}]
plain = client.chat.completions.create(model=model, messages=messages, temperature=0, seed=1)
text = plain.choices[0].message.content
assert text and plain.choices[0].finish_reason in ("stop", "length"), plain
assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
receipt = plain.model_extra["stoa"]["receipt"]["receipt"]
assert receipt["output_units"] == plain.usage.completion_tokens

pieces, usage = [], None
stream = client.chat.completions.create(
    model=model, messages=messages, temperature=0, seed=1, stream=True, stream_options={"include_usage": True}
)
for chunk in stream:
    if chunk.usage is not None:
        usage = chunk.usage
    for choice in chunk.choices:
        pieces.append(choice.delta.content or "")
assert "".join(pieces) == text, (pieces, text)
assert usage.completion_tokens == plain.usage.completion_tokens

completion = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0)
assert completion.usage.completion_tokens <= 8
streamed = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0, stream=True)
assert "".join(c.choices[0].text for c in streamed if c.choices) == completion.choices[0].text

tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
answer = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "What is the weather in Paris?"}], tools=tools, temperature=0
)
choice = answer.choices[0]
if choice.finish_reason == "tool_calls":
    for call in choice.message.tool_calls:
        json.loads(call.function.arguments)
print("tool call:", choice.finish_reason, choice.message.tool_calls or choice.message.content)

texts = ["Count from one to five.", "Count from two to six.", "The cat sat down near the river."]
embed = lambda **changes: client.embeddings.create(**{"model": model, "input": texts, **changes})
numbers, decoded = embed(encoding_format="float"), embed()  # The package asks for base64 where nothing is said, and decodes it.
vectors = [one.embedding for one in numbers.data]
bits = lambda answer: [array.array("f", one.embedding) for one in answer.data]  # 32-bit floats, whichever decimals stood for them
assert bits(numbers) == bits(decoded) == bits(embed())
assert [one.index for one in numbers.data] == [0, 1, 2]
dot = lambda a, b: sum(x * y for x, y in zip(a, b))
assert all(abs(math.sqrt(dot(v, v)) - 1) < 1e-6 for v in vectors), "of length one"
assert bits(embed(input=texts[1])) == bits(numbers)[1:2], "the same alone as beside others"
short = embed(input=texts[0], dimensions=16).data[0].embedding
scale = math.sqrt(dot(vectors[0][:16], vectors[0][:16]))
assert len(short) == 16 and all(abs(s - v / scale) < 1e-6 for s, v in zip(short, vectors[0]))
assert len(embed(input=[[1, 2], [3]]).data) == 2
receipt = numbers.model_extra["stoa"]["receipt"]["receipt"]
assert receipt["output_units"] == 3 and receipt["input_units"] == numbers.usage.prompt_tokens
assert numbers.usage.total_tokens == numbers.usage.prompt_tokens
near, far = dot(vectors[0], vectors[1]), max(dot(vectors[0], vectors[2]), dot(vectors[1], vectors[2]))
assert near > far, (near, far)
print(f"embeddings: of {len(vectors[0])} elements, cosine {near:.3f} of two like sentences, at most {far:.3f} of unlike ones")


def fails(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind} was not raised")


def create(**changes):
    return client.chat.completions.create(**{"model": model, "messages": messages, **changes})


fails(openai.NotFoundError, lambda: create(model="no-such-model"))
fails(openai.BadRequestError, lambda: create(temperature=99))
fails(openai.BadRequestError, lambda: create(messages=[{"role": "user", "content": "word " * 5000}]))
fails(openai.BadRequestError, lambda: embed(input=[]))
fails(openai.BadRequestError, lambda: embed(input=["word " * 5000]))
fails(openai.BadRequestError, lambda: embed(dimensions=100_000))
stranger = openai.OpenAI(base_url=base_url, api_key="sk-wrong", max_retries=0)
fails(openai.AuthenticationError, lambda: stranger.models.list())
print("openai client: ok,", repr(text))
