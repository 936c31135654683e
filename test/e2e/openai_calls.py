# The calls of OpenAI's Python client against a gateway: openai_calls.py URL MODEL. Fails with the first answer that is not as its types
# and parsers expect it; run by 19-clients.e2e.test.ts.
import json
import sys

from openai import BadRequestError, NotFoundError, OpenAI

url, model = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
messages = [{"role": "user", "content": "What is the capital of Norway?"}]

assert [one.id for one in client.models.list()] == [model]

chat = client.chat.completions.create(model=model, messages=messages, seed=3, max_tokens=12, n=2, logprobs=True, top_logprobs=2)
assert [choice.index for choice in chat.choices] == [0, 1]
assert chat.system_fingerprint.startswith("fp_") and chat.usage.completion_tokens_details.reasoning_tokens == 0
assert len(chat.choices[0].logprobs.content) == 12 and len(chat.choices[0].logprobs.content[0].top_logprobs) == 2

parts = {0: "", 1: ""}
usage = None
options = {"include_usage": True}
for chunk in client.chat.completions.create(model=model, messages=messages, seed=3, max_tokens=12, n=2, stream=True, stream_options=options):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        parts[choice.index] += choice.delta.content or ""
assert parts == {choice.index: choice.message.content for choice in chat.choices}, parts
assert usage.completion_tokens == 24

schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"], "additionalProperties": False}
json_schema = {"name": "place", "strict": True, "schema": schema}
held = client.chat.completions.create(
    model=model, messages=messages, max_tokens=60, temperature=0, response_format={"type": "json_schema", "json_schema": json_schema}
)
assert json.loads(held.choices[0].message.content)["city"] in ("Oslo", "Rome")

texts = ["The capital of Norway is Oslo", "hello hello hello"]
scored = client.completions.create(model=model, prompt=texts, max_tokens=1, temperature=0, logprobs=1, echo=True)
for text, choice in zip(texts, scored.choices, strict=True):
    assert choice.text.startswith(text) and choice.logprobs.token_logprobs[0] is None
    assert all(worth < 0 for worth in choice.logprobs.token_logprobs[1:])

# Without chance: a text that chance ends early is complete.
whole = client.responses.create(model=model, input=messages, max_output_tokens=12, temperature=0)
assert whole.status == "incomplete" and whole.usage.output_tokens == 12 and whole.output_text
with client.responses.stream(model=model, input=messages, max_output_tokens=12, temperature=0) as stream:
    deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert deltas

vllm = {"structured_outputs": {"choice": ["Oslo", "Rome"]}, "chat_template_kwargs": {"enable_thinking": False}}
assert client.chat.completions.create(model=model, messages=messages, extra_body=vllm).choices[0].message.content in ("Oslo", "Rome")
held = {"structured_outputs": vllm["structured_outputs"]}
assert client.completions.create(model=model, prompt="Norway:", extra_body=held).choices[0].text in ("Oslo", "Rome")
long = client.chat.completions.create(model=model, messages=messages, max_tokens=12, extra_body={"min_tokens": 12})
assert long.usage.completion_tokens == 12

reasoning = {"effort": "low", "summary": "auto"}
asked = client.responses.create(model=model, input=messages, max_output_tokens=12, temperature=0, reasoning=reasoning)
assert asked.reasoning.effort == "low" and asked.output_text
assert client.chat.completions.create(model=model, messages=messages, max_tokens=2, reasoning_effort="low").choices[0].message

assert len(client.embeddings.create(model=model, input=["a", "b"]).data) == 2

for kind, call in (
    (NotFoundError, lambda: client.chat.completions.create(model="other", messages=messages)),
    (BadRequestError, lambda: client.chat.completions.create(model=model, messages=messages, temperature=3)),
):
    try:
        call()
    except kind as error:
        assert error.code in ("model_not_found", "invalid_value"), error.code
    else:
        raise AssertionError(f"no {kind.__name__}")
print("all calls are answered")
