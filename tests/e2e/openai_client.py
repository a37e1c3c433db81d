"""The openai package with nothing changed but base_url and api_key: plain and streamed chat, completions, models, errors."""

import json
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
stranger = openai.OpenAI(base_url=base_url, api_key="sk-wrong", max_retries=0)
fails(openai.AuthenticationError, lambda: stranger.models.list())
print("openai client: ok,", repr(text))
