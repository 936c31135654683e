// Answers that begin with thoughts: what goes where, white space around the marks, thoughts that a prompt has begun, and what is cut off.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ByteLevelDecoder } from "./detokenize.ts";
import { CallText, StopText } from "./stop-text.ts";
import { opensThoughts, ThinkText, thoughtTokens } from "./think-text.ts";
import { hermes, mistral } from "./tools/index.ts";

const ids: Readonly<Record<string, number>> = { "<think>": 300, "</think>": 301, "[TOOL_CALLS]": 302 };
const tokens = thoughtTokens((content) => ids[content])!;
/** As vocabularies have them: the marks of thoughts show in a text, the mark of calls does not. */
const piece = (id: number) => (id < 256 ? Uint8Array.of(id) : new TextEncoder().encode(id === 300 ? "<think>" : "</think>"));
const decoder = () => new ByteLevelDecoder((id) => (id === 302 ? undefined : piece(id)));

/** Every byte is a token, and so is each mark. */
const tokensOf = (text: string): number[] =>
  text.split(/(<\/?think>|\[TOOL_CALLS\])/).flatMap((part) => ids[part] ?? [...new TextEncoder().encode(part)]);

interface Options {
  readonly opened?: boolean;
  readonly stops?: readonly string[];
  readonly tools?: boolean;
}

function read(text: string, { opened = false, stops = [], tools = false }: Options = {}) {
  const inner = tools ? new CallText(decoder(), stops, hermes.reader()) : new StopText(decoder(), stops);
  const thinking = new ThinkText({ tokens, decoder: decoder(), inner, opened, piece });
  const out = { reasoning: "", text: "", stopped: false, calls: "" };
  const add = (part: ReturnType<typeof thinking.push>): boolean => {
    out.reasoning += part.reasoning;
    out.text += part.text;
    for (const call of part.calls ?? []) out.calls += `${call.name ?? ""}${call.arguments ?? ""}`;
    out.stopped = part.stopped;
    return part.stopped;
  };
  for (const id of tokensOf(text)) if (add(thinking.push(id))) return out;
  add(thinking.end());
  return out;
}

const cases: Readonly<Record<string, { readonly given: string; readonly options?: Options; readonly want: object }>> = {
  "thoughts and an answer, without the white space that sets them apart": {
    given: "<think>\nhm  é\n\nso…\n</think>\n\nYes.\n",
    want: { reasoning: "hm  é\n\nso…", text: "Yes.\n" },
  },
  "an answer without thoughts is as it is": { given: "\n Yes.", want: { text: "\n Yes." } },
  "none at all": { given: "<think>\n\n</think>\n\nYes.", want: { text: "Yes." } },
  "the prompt has begun them": { given: "hm</think>Yes.", options: { opened: true }, want: { reasoning: "hm", text: "Yes." } },
  "cut off in thoughts": { given: "<think>hm ", want: { reasoning: "hm" } },
  "a half character at the end of thoughts": { given: "<think>hm</think>é", want: { reasoning: "hm", text: "é" } },
  "marks in the middle of an answer are text": { given: "Say <think>x</think>.", want: { text: "Say <think>x</think>." } },
  "only the first thoughts are": { given: "<think>a</think>b<think>c</think>", want: { reasoning: "a", text: "b<think>c</think>" } },
  "stop strings are looked for in the answer": {
    given: "<think>END</think>Yes.END more",
    options: { stops: ["END"] },
    want: { reasoning: "END", text: "Yes.", stopped: true },
  },
  "a call in thoughts is a thought, and one behind them is a call": {
    given:
      '<think><tool_call>\n{"name": "g", "arguments": {}}\n</tool_call></think>\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
    options: { tools: true },
    want: { reasoning: '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>', calls: "f{}" },
  },
};
for (const [name, { given, options, want }] of Object.entries(cases)) {
  test(`thoughts: ${name}`, () => {
    assert.deepEqual(read(given, options), { reasoning: "", text: "", stopped: false, calls: "", ...want });
  });
}

test("a prompt opens thoughts where its last word is their mark", () => {
  const opens = (text: string) => opensThoughts(tokensOf(text), tokens, piece);
  assert.deepEqual(["<think>", "a<think>\n", "<think>\n\n</think>\n\n", "a", "", "<think>a"].map(opens), [
    true,
    true,
    false,
    false,
    false,
    false,
  ]);
  assert.equal(
    thoughtTokens((content) => (content === "<think>" ? 1 : undefined)),
    undefined,
    "one mark is none",
  );
});

test("a control token that calls are told by ends the text before it, and shows in none", () => {
  const marks = new Map([[302, "[TOOL_CALLS]"]]);
  const texts = new CallText(decoder(), ["STOP"], mistral.reader(), marks);
  const pieces = tokensOf('ST[TOOL_CALLS] [{"name": "f", "arguments": {"a": "STOP"}}]').map((id) => texts.push(id));
  pieces.push(texts.end());
  assert.equal(pieces.map(({ text }) => text).join(""), "ST");
  const calls = pieces.flatMap((one) => one.calls);
  assert.equal(calls[0]?.name, "f");
  const plain = new CallText(decoder(), [], mistral.reader(), marks);
  const none = [...tokensOf("[TOOL_CALLS]no"), -1].map((id) => (id < 0 ? plain.end() : plain.push(id)).text).join("");
  assert.equal(none, "[TOOL_CALLS]no", "what is no call is given back");
});
