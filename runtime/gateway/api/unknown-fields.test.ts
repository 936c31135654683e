// What becomes of fields that no API has, by the mode: left out, told once and counted, or refused; those that change an answer always.
import assert from "node:assert/strict";
import { test } from "node:test";
import { newMetrics } from "../../../test/kit/gateway/answers.ts";
import { silentLog } from "../../observe/log.ts";
import { parseEmbeddings } from "./embeddings.ts";
import { parseChat, parseCompletion } from "./openai.ts";
import { parseResponses } from "./responses.ts";
import { UnknownFields } from "./unknown-fields.ts";

function made(mode: "Ignore" | "Refuse") {
  const told: unknown[] = [];
  const metrics = newMetrics();
  const log = { ...silentLog, warn: (fields: unknown) => void told.push((fields as { field: string }).field) };
  return { unknown: new UnknownFields(mode, log, metrics), told, metrics };
}

const apis = {
  chat: [parseChat, { model: "tiny", messages: [{ role: "user", content: "a" }] }],
  completions: [parseCompletion, { model: "tiny", prompt: "a" }],
  responses: [parseResponses, { model: "tiny", input: "a" }],
  embeddings: [parseEmbeddings, { model: "tiny", input: "a" }],
} as const;
/** Fields -> the one that is refused where unknown ones are ignored. */
const cases: readonly (readonly [fields: object, refused: string | undefined])[] = [
  [{ prediction: { type: "content" }, cache_salt: "x" }, undefined],
  [{ guided_json: {}, cache_salt: "x" }, "guided_json"],
  [{ chat_template: "x" }, "chat_template"],
  [{ suffix: 5, dimensions: 5 }, "suffix"],
  [{ truncation: 5, echo: 1 }, "truncation"],
];

test("unknown fields are ignored or refused, and those that change the answer are refused by name in any API", () => {
  for (const [endpoint, [parse, body]] of Object.entries(apis))
    for (const [fields, refused] of cases) {
      const paramOf = (mode: "Ignore" | "Refuse") => {
        const known = made(mode).unknown.without({ ...body, ...fields }, endpoint);
        const parsed = "problem" in known ? known : parse(known.json, "tiny");
        return "problem" in parsed ? parsed.problem.param : undefined;
      };
      const ignoring = paramOf("Ignore");
      if (refused === undefined) assert.equal(ignoring, undefined, endpoint);
      else assert.ok(Object.keys(fields).includes(ignoring ?? ""), `${endpoint}: ${ignoring}`);
      assert.ok(Object.keys(fields).includes(paramOf("Refuse") ?? ""), endpoint);
    }
});

test("a name is told once, so many of them at most, and each field is counted", async () => {
  const { unknown, told, metrics } = made("Ignore");
  for (let i = 0; i < 3; i++) assert.deepEqual(unknown.without({ model: "tiny", odd: 1 }, "chat"), { json: { model: "tiny" } });
  for (let i = 0; i < 100; i++) unknown.without({ [`x${i}${"y".repeat(100)}`]: 1 }, "chat");
  assert.equal(told.length, 64);
  assert.equal(String(told[1]).length, 64);
  assert.match(await metrics.text(), /^enodia_gateway_ignored_fields_total\{endpoint="chat"\} 103$/m);
  for (const body of [null, [], "x", { model: "tiny" }]) assert.deepEqual(unknown.without(body, "chat"), { json: body });
  assert.deepEqual(unknown.without({ odd: 1 }, "other"), { json: { odd: 1 } });
});

test("more unknown fields than anybody has by mistake are refused, in time that grows with the body", () => {
  const fields = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, 0]));
  for (const endpoint of ["chat", "other"])
    for (const mode of ["Ignore", "Refuse"] as const) {
      const { unknown } = made(mode);
      const answers = (count: number) => !("problem" in unknown.without({ model: "tiny", ...fields(count) }, endpoint));
      assert.deepEqual([answers(255), answers(257)], [true, false], `${endpoint}, ${mode}`);
    }
  const body = fields(700_000);
  const start = process.cpuUsage();
  const found = made("Ignore").unknown.without(body, "chat");
  assert.ok(process.cpuUsage(start).user < 5_000_000);
  assert.match(
    "problem" in found ? found.problem.message : "",
    /^`k0` and others: 700000 fields are unknown, at most 256: leave them out\.$/,
  );
});
