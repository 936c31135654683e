// Calls in the words of each family: read the same however the text is cut, free text beside them, and what is no call left as text.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { deepseekV3, deepseekV31, harmony, hermes, llama, mistral, toolFormatOf } from "./index.ts";
import type { CallsPiece, ToolFormat } from "./tool-format.ts";

type Readable = Required<Pick<ToolFormat, "texts" | "reader">>;
const formats: Readonly<Record<string, Readable>> = { hermes, deepseekV3, deepseekV31, llama, mistral };

interface Read {
  readonly text: string;
  readonly calls: readonly { readonly name: string; readonly arguments: string }[];
}

/** Reads a text in pieces that end at these places. */
function read(format: Readable, text: string, cuts: readonly number[] = []): Read {
  const reader = format.reader();
  const pieces: CallsPiece[] = [];
  let from = 0;
  for (const cut of [...cuts.filter((at) => at < text.length).sort((a, b) => a - b), text.length]) {
    pieces.push(reader.push(text.slice(from, cut)));
    from = cut;
  }
  pieces.push(reader.end());
  const calls: { name: string; arguments: string }[] = [];
  for (const { index, name, arguments: more = "" } of pieces.flatMap((piece) => piece.calls)) {
    if (name !== undefined) assert.equal(calls.push({ name, arguments: "" }), index + 1, "names come in order, each once");
    (calls[index] as { arguments: string }).arguments += more;
  }
  return { text: pieces.map((piece) => piece.text).join(""), calls };
}

const written = ({ texts }: Readable, calls: readonly { name: string; arguments: string }[]): string =>
  texts.begin + calls.map((call) => texts.before(call.name) + call.arguments + texts.after).join(texts.between) + texts.end;

const given = fc.record({
  name: fc.stringMatching(/^[a-zA-Z0-9_-]{1,20}$/),
  arguments: fc
    .oneof(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })), fc.constant({ 'a "b" \\': "}</tool_call>{", "}": [{}, " x "] }))
    .chain((value) => fc.constantFrom(JSON.stringify(value), JSON.stringify(value, null, 2))),
});
const call = given.map(({ name, arguments: json }) => ({ name, arguments: json }));
/** Free text that holds no beginning of a mark; beside a format without an open one it has no brace, and says something. */
const freeBefore = (name: string) => fc.stringMatching(name === "llama" ? /^([a-z][a-z }"\n]{0,20})?$/ : /^[a-z {}"\n]{0,20}$/);

for (const [name, format] of Object.entries(formats)) {
  test(`${name}: calls that are written are read again, however their text is cut`, () => {
    fc.assert(
      fc.property(
        freeBefore(name),
        fc.array(call, { minLength: 1, maxLength: 3 }),
        fc.array(fc.nat(400), { maxLength: 12 }),
        (before, calls, cuts) => {
          const text = before + written(format, calls);
          assert.deepEqual(read(format, text, cuts), { text: before, calls });
          assert.deepEqual(
            read(
              format,
              text,
              Array.from(text, (_, at) => at),
            ),
            { text: before, calls },
            "a character at a time",
          );
        },
      ),
      { numRuns: 200 },
    );
  });

  test(`${name}: any text is read to its end, and without a mark it is text as it is`, () => {
    const parts = [format.texts.begin, format.texts.before("f"), '{"a":1}', format.texts.after, format.texts.end, "<", "{", '"', "x"];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...parts), { maxLength: 8 }), fc.array(fc.nat(200), { maxLength: 6 }), (mixed, cuts) => {
        const text = mixed.join("");
        assert.deepEqual(read(format, text, cuts), read(format, text));
      }),
      { numRuns: 300 },
    );
    for (const text of ["", "no call <tool", 'a {"name": "f"}', "ends with <"]) assert.deepEqual(read(format, text), { text, calls: [] });
  });
}

test("arguments go on while they are written, and a call that is cut off has what it had", () => {
  const reader = hermes.reader();
  assert.deepEqual(reader.push('<tool_call>\n{"name": "get_weather", "arguments": {"city": "New'), {
    text: "",
    calls: [{ index: 0, name: "get_weather", arguments: '{"city": "New' }],
  });
  assert.deepEqual(reader.push(" York"), { text: "", calls: [{ index: 0, arguments: " York" }] });
  assert.deepEqual(reader.end(), { text: "", calls: [] });
});

test("a call that is none is given back as text", () => {
  const whole = '<tool_call>\n{"arguments": {"a": 1}}\n</tool_call>';
  assert.deepEqual(read(hermes, `a${whole}`), { text: `a${whole}`, calls: [] });
  assert.deepEqual(read(hermes, "<tool_call>\nget_weather()"), { text: "<tool_call>\nget_weather()", calls: [] });
  assert.deepEqual(read(hermes, '<tool_call>\n{"name": "f", '), { text: "", calls: [{ name: "f", arguments: "" }] });
});

test("a call without arguments has none, as JSON that clients can read", () => {
  const calls = [{ name: "f", arguments: "{}" }];
  for (const body of ['{"name": "f"}', '{"name":"f", "id": 1 }'])
    assert.deepEqual(read(hermes, `<tool_call>\n${body}\n</tool_call>`), { text: "", calls });
});

test("a name that has no end is not read again with every token", () => {
  const reader = hermes.reader();
  reader.push('<tool_call>{"name": "');
  const begun = process.cpuUsage();
  for (let i = 0; i < 20_000; i++) reader.push("longer and longer");
  const { user } = process.cpuUsage(begun);
  assert.ok(user < 1_500_000, `${user} us`);
  assert.deepEqual(reader.push('"}</tool_call>').calls, []);
});

test("a name is the same however its text is cut, with whatever a model writes behind it", () => {
  const long = "x".repeat(600);
  const bodies: readonly (readonly [body: string, calls: readonly object[]])[] = [
    ['{"name": "f", \n"name": "g", "arguments": ""}', [{ name: "f", arguments: '""' }]],
    ['{"name": "f" g, "arguments": {}}', [{ name: "f", arguments: "{}" }]],
    [`{"name": "f"${" ".repeat(600)}, "arguments": {}}`, [{ name: "f", arguments: "{}" }]],
    ['{"name": "f", "arguments": [1]]', [{ name: "f", arguments: "[1]" }]],
    ['{"name": "f\\q", "name": "g"}', []],
    ['{"name": 1, "name": "g"}', []],
    [`{"name": "${long}"}`, []],
  ];
  for (const [body, calls] of bodies) {
    const text = `<tool_call>\n${body}\n</tool_call>`;
    const whole = read(hermes, text);
    assert.deepEqual(whole.calls, calls, body);
    const each = Array.from(text, (_, at) => at);
    assert.deepEqual(read(hermes, text, each), whole, body);
    for (const cut of each) assert.deepEqual(read(hermes, text, [cut]), whole, `${body} cut at ${cut}`);
  }
});

test("arguments before the name wait for it", () => {
  const text = '<tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>';
  assert.deepEqual(read(hermes, text), { text: "", calls: [{ name: "f", arguments: '{"a": 1}' }] });
});

test("Llama's calls are the answer, or begin as templates have it; an answer in JSON that is none is text", () => {
  const weather = { name: "get_weather", arguments: '{"city": "Oslo"}' };
  const whole = '{"name": "get_weather", "parameters": {"city": "Oslo"}}';
  const cases: readonly (readonly [text: string, want: Read])[] = [
    [`\n ${whole}`, { text: "", calls: [weather] }],
    [`{"type": "function", "parameters": {"city": "Oslo"}, "name": "get_weather"}`, { text: "", calls: [weather] }],
    [`${whole.replace("parameters", "arguments")}\n`, { text: "", calls: [weather] }],
    [`${whole}; ${whole} `, { text: "", calls: [weather, weather] }],
    [`I will look. ${whole}`, { text: "I will look. ", calls: [weather] }],
    [`${whole} Done.`, { text: "Done.", calls: [weather] }],
    ['{"name": "Ada", "age": 36}', { text: '{"name": "Ada", "age": 36}', calls: [] }],
    ['{"name": "Ada", "age": 36} is she', { text: '{"name": "Ada", "age": 36} is she', calls: [] }],
    [' {"city": "Oslo"} ', { text: ' {"city": "Oslo"} ', calls: [] }],
    ['{"name": "Ada", "par', { text: '{"name": "Ada", "par', calls: [] }],
    ["brave_search.call(query=x)", { text: "brave_search.call(query=x)", calls: [] }],
    [" \n", { text: " \n", calls: [] }],
    ['{"name": "f", "parameters": {}, "arguments": {"a": 1}}', { text: "", calls: [{ name: "f", arguments: "{}" }] }],
  ];
  for (const [text, want] of cases) {
    assert.deepEqual(read(llama, text), want, text);
    for (const cut of Array.from(text, (_, at) => at)) assert.deepEqual(read(llama, text, [cut]), want, `${text} cut at ${cut}`);
  }
});

test("Mistral's calls are a list after its mark, or as an answer that is held to them writes it; other lists are text", () => {
  const weather = { name: "get_weather", arguments: '{"city": "Oslo"}' };
  const one = '{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "abc123def"}';
  const cases: readonly (readonly [text: string, want: Read])[] = [
    [`[TOOL_CALLS] [${one}]`, { text: "", calls: [weather] }],
    [`[TOOL_CALLS][${one},\n${one}]`, { text: "", calls: [weather, weather] }],
    [`I look.[TOOL_CALLS][ ${one}] `, { text: "I look.", calls: [weather] }],
    [`[${one}]`, { text: "", calls: [weather] }],
    ["See [1] and [2].", { text: "See [1] and [2].", calls: [] }],
    ['[{"a": 1}, {"name": 1}]', { text: '[{"a": 1}, {"name": 1}]', calls: [] }],
    ['[{"name": "Ada"}]', { text: '[{"name": "Ada"}]', calls: [] }],
    ["[TOOL_CALLS] none", { text: "[TOOL_CALLS] none", calls: [] }],
    ["[TOOL_CALLS] [", { text: "[TOOL_CALLS] [", calls: [] }],
  ];
  for (const [text, want] of cases) {
    assert.deepEqual(read(mistral, text), want, text);
    for (const cut of Array.from(text, (_, at) => at)) assert.deepEqual(read(mistral, text, [cut]), want, `${text} cut at ${cut}`);
  }
});

test("ids of calls are brought to the form that Mistral's templates want, a call's and its answer's alike", () => {
  const ids = ["call_0123456789abcdef", "c1", "a-b_c", "abc123def"].map((id) => mistral.callId(id));
  assert.deepEqual(ids, ["789abcdef", "0000000c1", "000000abc", "abc123def"]);
});

test("a template's own words tell its format, and one that takes no tools has none", () => {
  const qwen = `{% if tools %}<tool_call>{"name": , "arguments": }</tool_call>{% endif %}`;
  const code = "{% for tool in tools %}<｜tool▁calls▁begin｜>```json{% endfor %}";
  assert.equal(toolFormatOf(qwen), hermes);
  assert.equal(toolFormatOf(code), deepseekV3);
  assert.equal(toolFormatOf(code.replace("```json", "")), deepseekV31);
  assert.equal(toolFormatOf(qwen.replaceAll("tools", "x")), undefined);
  assert.equal(toolFormatOf("{{ tools }}<tool_call><function=f>"), undefined, "Qwen3-Coder writes parameters as tags");
  assert.equal(toolFormatOf("{{ messages }}"), undefined);
  const ofLlama = `{% if tools %}<|start_header_id|>{{- '"parameters": ' }}<|python_tag|>{% endif %}`;
  assert.equal(toolFormatOf(ofLlama), llama);
  assert.equal(toolFormatOf(ofLlama.replace("parameters", "x")), undefined);
  assert.equal(toolFormatOf("{{ tools }}[AVAILABLE_TOOLS][TOOL_CALLS] ["), mistral);
  assert.equal(toolFormatOf("{{ tools }}[TOOL_CALLS]name[ARGS]"), undefined, "later models of Mistral's write otherwise");
  assert.equal(toolFormatOf("{{ tools }}<|channel|>commentary to=functions.f"), harmony);
});
