"""The openai package with nothing changed but base_url and api_key: plain and streamed chat, completions, embeddings, models, errors."""

import array
import json
import math
import sys
from typing import Literal, Optional

import openai
import pydantic

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

ask = lambda **changes: client.completions.create(**{"model": model, "prompt": "Once", "max_tokens": 12, "temperature": 0, **changes})
only = ask(logit_bias={"65": 100}).choices[0].text
assert len(set(only)) == 1 and len(only) >= 12, f"a bias of 100 leaves one token, not {only!r}"
varied = ask(logit_bias={"65": 40}, frequency_penalty=2, presence_penalty=2, max_tokens=40).choices[0].text
assert varied != ask(logit_bias={"65": 40}, max_tokens=40).choices[0].text, "penalties change what a bias repeats"

told = client.chat.completions.create(model=model, messages=messages, temperature=0, logprobs=True, top_logprobs=3)
entries = told.choices[0].logprobs.content
assert told.choices[0].message.content == text, "they change no token"
assert len(entries) == told.usage.completion_tokens, "one for each token"
assert b"".join(bytes(e.bytes) for e in entries).decode().startswith(text)
assert all(e.logprob == e.top_logprobs[0].logprob <= 0 and len(e.top_logprobs) == 3 for e in entries), "greedy takes the likeliest"
assert all(sum(math.exp(t.logprob) for t in e.top_logprobs) < 1.001 for e in entries)
streamed = client.chat.completions.create(model=model, messages=messages, temperature=0, logprobs=True, top_logprobs=3, stream=True)
parts = [c.choices[0].logprobs for c in streamed if c.choices]
assert [e for part in parts if part for e in part.content] == entries
thinking = {"chat_template_kwargs": {"enable_thinking": False}}
earlier = [*messages, {"role": "assistant", "content": text, "reasoning_content": "A greeting."}, *messages]
plain_again = client.chat.completions.create(model=model, messages=messages, temperature=0, seed=1, extra_body=thinking)
assert plain_again.choices[0].message.content == text, "its template knows no such argument"
assert client.chat.completions.create(model=model, messages=earlier, temperature=0).choices[0].message.content
listed = ask(logprobs=2).choices[0].logprobs
assert len(listed.tokens) == len(listed.token_logprobs) == len(listed.text_offset) == len(listed.top_logprobs)

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



class Stop(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=16)
    minutes: int = pydantic.Field(ge=1, le=90)


class Trip(pydantic.BaseModel):
    """An answer of this class is made however little sense the model has."""

    kind: Literal["walk", "train"]
    stops: list[Stop] = pydantic.Field(min_length=1, max_length=2)
    note: Optional[str] = pydantic.Field(max_length=12)
    cheap: bool


for temperature in (0, 2):
    trip = client.chat.completions.parse(
        model=model, messages=messages, response_format=Trip, temperature=temperature, seed=3, max_tokens=700
    )
    found = trip.choices[0].message.parsed
    assert trip.choices[0].finish_reason == "stop" and 1 <= len(found.stops) <= 2, trip
    called = client.chat.completions.parse(
        model=model, messages=messages, tools=[openai.pydantic_function_tool(Trip)], tool_choice="required", parallel_tool_calls=False,
        temperature=temperature, seed=3, max_tokens=700,
    )
    (call,) = called.choices[0].message.tool_calls
    assert call.function.name == "Trip" and isinstance(call.function.parsed_arguments, Trip), called
    print("parsed:", found, "called:", call.function.arguments)
with client.chat.completions.stream(model=model, messages=messages, response_format=Trip, temperature=1, seed=5, max_tokens=700) as stream:
    assert stream.get_final_completion().choices[0].message.parsed.cheap in (True, False)
answer = client.chat.completions.create(
    model=model, messages=messages, response_format={"type": "json_object"}, temperature=1, seed=4, max_tokens=700
)
if answer.choices[0].finish_reason == "stop":
    assert isinstance(json.loads(answer.choices[0].message.content), dict)
chosen = client.chat.completions.create(
    model=model, messages=messages, temperature=2, seed=1, extra_body={"structured_outputs": {"choice": ["yes", "no (or so)"]}}
)
assert chosen.choices[0].message.content in ("yes", "no (or so)"), chosen

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


drawn = client.chat.completions.create(model=model, messages=messages, temperature=0.9, seed=3, n=3)
assert [c.index for c in drawn.choices] == [0, 1, 2]
parts = drawn.model_extra["stoa"]["choices"]
assert len({p["parameters"]["seed"] for p in parts}) == len({p["receipt_id"] for p in parts}) == 3, parts
assert drawn.usage.completion_tokens == sum(p["receipt"]["receipt"]["output_units"] for p in parts)
texts = ["", "", ""]
for chunk in client.chat.completions.create(model=model, messages=messages, temperature=0.9, seed=3, n=3, stream=True):
    for choice in chunk.choices:
        texts[choice.index] += choice.delta.content or ""
assert texts == [c.message.content for c in drawn.choices], texts
same = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0, n=2)
assert same.choices[0].text == same.choices[1].text, same
print("choices:", texts)


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
fails(openai.BadRequestError, lambda: create(presence_penalty=2.5))
fails(openai.BadRequestError, lambda: create(top_logprobs=2))
fails(openai.BadRequestError, lambda: create(n=9))
fails(openai.BadRequestError, lambda: create(extra_body={"chat_template_kwargs": {"messages": "x"}}))
assert "vocabulary" in str(fails(openai.BadRequestError, lambda: create(logit_bias={"4000000000": 1})))
fails(openai.BadRequestError, lambda: create(messages=[{"role": "user", "content": "word " * 5000}]))
odd = {"type": "json_schema", "json_schema": {"name": "odd", "strict": True, "schema": {"properties": {"a": {"not": {}}}}}}
refused = fails(openai.BadRequestError, lambda: create(response_format=odd))
assert refused.param == "response_format.json_schema.schema" and "#/properties/a" in str(refused), refused
fails(openai.BadRequestError, lambda: embed(input=[]))
fails(openai.BadRequestError, lambda: embed(input=["word " * 5000]))
fails(openai.BadRequestError, lambda: embed(dimensions=100_000))
stranger = openai.OpenAI(base_url=base_url, api_key="sk-wrong", max_retries=0)
fails(openai.AuthenticationError, lambda: stranger.models.list())
print("openai client: ok,", repr(text))
