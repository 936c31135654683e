// Answers in channels: what goes where, in pieces, and what becomes of messages that are cut short or in no channel.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ChannelText, channelTokens } from "./channels.ts";
import { ByteLevelDecoder } from "./detokenize.ts";

const ids: Readonly<Record<string, number>> = {
  "<|start|>": 300,
  "<|channel|>": 301,
  "<|message|>": 302,
  "<|end|>": 303,
  "<|return|>": 304,
};
const tokens = channelTokens((content) => ids[content])!;
const decoder = () => new ByteLevelDecoder((id) => (id < 256 ? Uint8Array.of(id) : undefined));

/** Every byte is a token, and so is each mark. */
function tokensOf(text: string): number[] {
  return text.split(/(<\|\w+\|>)/).flatMap((part) => ids[part] ?? [...new TextEncoder().encode(part)]);
}

function read(text: string, stops: readonly string[] = []) {
  const channels = new ChannelText(decoder, tokens, stops);
  const out = { reasoning: "", text: "", stopped: false };
  for (const id of tokensOf(text)) {
    const piece = channels.push(id);
    out.reasoning += piece.reasoning;
    out.text += piece.text;
    if (piece.stopped) return { ...out, stopped: true };
  }
  const rest = channels.end();
  return { reasoning: out.reasoning + rest.reasoning, text: out.text + rest.text, stopped: rest.stopped };
}

const thought = "<|channel|>analysis<|message|>2 and 2… é<|end|>";
const final = "<|start|>assistant<|channel|>final<|message|>Four, é.<|return|>";

test("what the model says to itself is apart from what it says to the user", () => {
  assert.deepEqual(read(thought + final), { reasoning: "2 and 2… é", text: "Four, é.", stopped: false });
  const preamble = "<|start|>assistant<|channel|>commentary<|message|>Let me see. <|end|>";
  assert.deepEqual(read(thought + preamble + thought + final), {
    reasoning: "2 and 2… é2 and 2… é",
    text: "Let me see. Four, é.",
    stopped: false,
  });
});

test("an answer in no channel is all for the user; one cut short keeps what there is", () => {
  assert.deepEqual(read("plain"), { reasoning: "", text: "plain", stopped: false });
  assert.deepEqual(read("<|message|>plain<|end|>"), { reasoning: "", text: "plain", stopped: false });
  assert.deepEqual(read("<|channel|>analysis<|message|>hm"), { reasoning: "hm", text: "", stopped: false });
  assert.deepEqual(read("<|channel|>analy"), { reasoning: "", text: "", stopped: false });
});

test("stop strings end what is for the user, and are none in what is not", () => {
  assert.deepEqual(read(`<|channel|>analysis<|message|>no END yet<|end|>${final} END more`, ["END"]), {
    reasoning: "no END yet",
    text: "Four, é. ",
    stopped: true,
  });
  assert.equal(read("<|channel|>final<|message|>one ENDtwo", ["END"]).text, "one ");
});

function calls(text: string, tools = true) {
  const channels = new ChannelText(decoder, tokens, [], tools);
  const pieces = [...tokensOf(text).map((id) => channels.push(id)), channels.end()];
  const found: { name: string; arguments: string }[] = [];
  for (const { index, name, arguments: more = "" } of pieces.flatMap((piece) => piece.calls ?? [])) {
    if (name !== undefined) found.push({ name, arguments: "" });
    found[index]!.arguments += more;
  }
  return { calls: found, text: pieces.map((piece) => piece.text).join(""), reasoning: pieces.map((piece) => piece.reasoning).join("") };
}

test("a message to a function is a call, wherever its recipient stands; without tools it is for the user", () => {
  const call = '<|start|>assistant<|channel|>commentary to=functions.get_weather json<|message|>{"city": "Tromsø"}';
  const want = { calls: [{ name: "get_weather", arguments: '{"city": "Tromsø"}' }], text: "", reasoning: "2 and 2… é" };
  assert.deepEqual(calls(thought + call), want);
  assert.deepEqual(calls(`${thought}${call}<|end|>`), want);
  const other = '<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Tromsø"}';
  assert.deepEqual(calls(thought + other), want);
  assert.deepEqual(calls(other, false), { calls: [], text: '{"city": "Tromsø"}', reasoning: "" });
  assert.deepEqual(calls("<|channel|>commentary to=browser.search<|message|>x").calls, []);
});

test("a vocabulary without one of the marks has no channels", () => {
  assert.equal(
    channelTokens((content) => (content === "<|end|>" ? undefined : 1)),
    undefined,
  );
});
