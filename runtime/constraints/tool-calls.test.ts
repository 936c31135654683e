// Texts that are held to calls of tools: which are taken, with free text and without, one call or several, in a section or without; and
// what specs are refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import { languageOf } from "./index.ts";
import { whole } from "./language.ts";
import type { ToolSpec } from "./tool-calls.ts";

const city = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const call = (name: string, schema: object = city) => ({
  before: `<call>{"name": "${name}", "arguments": `,
  schema: JSON.stringify(schema),
  after: "}</call>",
});
const tags: ToolSpec = { begin: "", end: "", between: "\n", trigger: "", single: false, calls: [call("get"), call("get_all")] };
const section: ToolSpec = {
  ...{ begin: "<calls>", end: "</calls>", between: "", trigger: "", single: false },
  calls: ["get", "get_all"].map((name) => ({ before: `<c>${name}:`, schema: JSON.stringify(city), after: "</c>" })),
};

function verdict(spec: ToolSpec, text: string): "whole" | "part" | "wrong" {
  const language = languageOf({ name: "tool_calls", spec: JSON.stringify(spec) });
  let state: string | undefined = language.start;
  for (const byte of new TextEncoder().encode(text)) {
    state = language.step(state, byte);
    if (state === undefined) return "wrong";
    const alike = whole(language.alike(state, { bytes: 16, ends: true }));
    assert.equal(whole(language.alike(alike, { bytes: 16, ends: true })), alike);
  }
  return language.ends(state) ? "whole" : "part";
}

const one = (name: string, value = '{"city": "Oslo"}') => `<call>{"name": "${name}", "arguments": ${value}}</call>`;
const cases: readonly (readonly [ToolSpec, string, ReturnType<typeof verdict>])[] = [
  [tags, "", "part"],
  [tags, one("get"), "whole"],
  [tags, one("get_all"), "whole"],
  [tags, `${one("get")}\n${one("get_all")}\n${one("get")}`, "whole"],
  [tags, `${one("get")}\n`, "part"],
  [tags, `${one("get")}${one("get")}`, "wrong"],
  [tags, "no", "wrong"],
  [tags, one("other"), "wrong"],
  [tags, one("get", '{"city": 5}'), "wrong"],
  [tags, one("get", '{"town": "Oslo"}'), "wrong"],
  [tags, one("get", "{}"), "wrong"],
  [{ ...tags, single: true }, one("get"), "whole"],
  [{ ...tags, single: true }, `${one("get")}\n`, "wrong"],
  [{ ...tags, trigger: "<call>" }, "", "whole"],
  [{ ...tags, trigger: "<call>" }, "I think <cal <<call", "whole"],
  [{ ...tags, trigger: "<call>" }, "I think <cal <<call>", "part"],
  [{ ...tags, trigger: "<call>" }, `I think ${one("get")} and ${one("get_all")}.`, "whole"],
  [{ ...tags, trigger: "<call>" }, "I think <call>x", "wrong"],
  [{ ...tags, trigger: "<call>", single: true }, `I think ${one("get")}`, "whole"],
  [{ ...tags, trigger: "<call>", single: true }, `I think ${one("get")} `, "wrong"],
  [section, '<calls><c>get:{"city":""}</c></calls>', "whole"],
  [section, '<calls><c>get:{"city":""}</c><c>get_all:{"city":""}</c></calls>', "whole"],
  [section, '<calls><c>get:{"city":""}</c>', "part"],
  [section, "<calls></calls>", "wrong"],
  [{ ...section, single: true }, '<calls><c>get:{"city":""}</c><c>', "wrong"],
  [{ ...section, single: true }, '<calls><c>get:{"city":""}</c></calls>', "whole"],
  [{ ...section, trigger: "<calls>" }, 'yes<calls><c>get_all:{"city":""}</c></calls>', "whole"],
  [{ ...section, trigger: "<calls>" }, 'yes<calls><c>get_all:{"city":""}</c></calls>.', "wrong"],
];

for (const [spec, text, want] of cases)
  test(`${JSON.stringify(text)} is ${want}${spec.trigger && " beside free text"}${spec.single ? ", one call at most" : ""}`, () =>
    assert.equal(verdict(spec, text), want));

test("a spec that is none is refused, a schema with the tool that it is of", () => {
  const refused = (spec: string, message: RegExp) =>
    assert.throws(() => languageOf({ name: "tool_calls", spec }), { code: "InvalidRequest", message });
  refused("{", /no JSON/);
  refused("{}", /spec is wrong/);
  refused(JSON.stringify({ ...tags, calls: [] }), /spec is wrong/);
  refused(JSON.stringify({ ...tags, trigger: "<x>" }), /begin otherwise/);
  refused(JSON.stringify({ ...tags, begin: "x".repeat(2_000) }), /spec is wrong/);
  refused("x".repeat(70_000), /at most 65536/);
  const date = { ...city, properties: { city: { type: "string", format: "date", pattern: "x" } } };
  refused(
    JSON.stringify({ ...tags, calls: [call("a"), call("b", date)] }),
    /tools\[1\]\.function\.parameters: #\/properties\/city\/format/,
  );
});
