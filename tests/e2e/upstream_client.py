"""A model of somebody else's server through Stoa: whole and streamed answers, completions, tools, errors, and a client that leaves.

usage: upstream_client.py BASE_URL KEY MODEL"""

import sys

import openai

base_url, api_key, model = sys.argv[1:4]
client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
listed = {m.id: m for m in client.models.list().data}
assert model in listed, listed

messages = [{"role": "user", "content": "Hello"}]


def create(**changes):
    return client.chat.completions.create(**{"model": model, "messages": messages, "temperature": 0, **changes})


plain = create()
text = plain.choices[0].message.content
receipt = plain.model_extra["stoa"]["receipt"]["receipt"]
assert text and plain.choices[0].finish_reason in ("stop", "length"), plain
assert receipt["tier"] == "none" and int(receipt["model_root"], 16) == 0, receipt
assert receipt["output_units"] == plain.usage.completion_tokens > 0, (receipt, plain.usage)
assert receipt["input_units"] == plain.usage.prompt_tokens > 0, (receipt, plain.usage)

pieces, usage = [], None
for chunk in create(stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    pieces.extend(choice.delta.content or "" for choice in chunk.choices)
assert "".join(pieces) == text, (pieces, text)
assert len([p for p in pieces if p]) > 1, "streamed in pieces"
assert usage.completion_tokens == plain.usage.completion_tokens, (usage, plain.usage)

completion = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0)
assert completion.choices[0].text and completion.usage.completion_tokens <= 8, completion
short = create(max_tokens=3)
assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens <= 3, short

parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tools = [{"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city", "parameters": parameters}}]
answer = create(messages=[{"role": "user", "content": "What is the weather in Paris?"}], tools=tools)
calls = answer.choices[0].message.tool_calls
assert answer.choices[0].finish_reason == "tool_calls" and calls[0].function.name == "get_weather", answer

try:
    create(messages=[{"role": "user", "content": "word " * 2000}])
    raise AssertionError("a prompt beyond the context was taken")
except openai.BadRequestError as error:
    assert error.code == "context_length_exceeded", error
try:
    create(extra_body={"stoa": {"tier": "exact"}})
    raise AssertionError("nobody serves this model exactly")
except openai.APIStatusError as error:
    assert error.status_code in (404, 409, 422, 503), error

stream = create(stream=True, max_tokens=500, messages=[{"role": "user", "content": "Tell me a long story"}])
next(iter(stream))
stream.close()
assert create().choices[0].message.content == text, "the next call is served"
print("upstream: ok,", repr(text), [c.function.arguments for c in calls])
