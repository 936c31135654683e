// Bodies of the OpenAI API by its grammar: chats with tools and formats, completions of several prompts, responses, embeddings. Most are
// taken; fields at and beyond their bounds are among them.
import { efforts } from "../../../runtime/text/thinking.ts";
import type { Random } from "../mutate.ts";
import { chance, json, number, pick, text, times } from "../words.ts";

const names = ["f", "get_weather", "a-b"];

/** Each field in so many of a hundred bodies. */
function some(random: Random, percent: number, all: Readonly<Record<string, () => unknown>>): Record<string, unknown> {
  const chosen = Object.entries(all).filter(() => chance(random, percent));
  return Object.fromEntries(chosen.map(([name, make]) => [name, make()]));
}

const rate = (random: Random, most: number): number => (chance(random, 97) ? random(100 * most) / 100 : number(random));
const flag = (random: Random): boolean => chance(random, 50);

function schemaOf(random: Random): object {
  const leaf = () =>
    pick<object>(random, [{ type: "string" }, { type: "integer" }, { enum: ["a", 1, null] }, { type: "string", pattern: "^a+$" }, {}]);
  const properties = Object.fromEntries(times(random, 3, (at) => [`k${at}`, leaf()]));
  return { type: "object", properties, required: Object.keys(properties).slice(0, 1), additionalProperties: flag(random) };
}

const content = (random: Random): unknown =>
  chance(random, 80) ? text(random) : times(random, 3, () => ({ type: "text", text: text(random) }));

function messageOf(random: Random): object {
  const at = random(10);
  const call = { id: "c1", type: "function", function: { name: pick(random, names), arguments: JSON.stringify({ a: json(random, 1) }) } };
  if (at === 0) return { role: "tool", tool_call_id: "c1", content: content(random) };
  if (at === 1) return { role: "assistant", content: chance(random, 50) ? null : text(random), tool_calls: [call] };
  return { role: pick(random, ["user", "user", "system", "assistant", "developer"]), content: content(random) };
}

const toolOf = (random: Random): object => ({
  name: pick(random, names),
  ...some(random, 60, { description: () => text(random), parameters: () => schemaOf(random), strict: () => flag(random) }),
});
const formatOf = (random: Random): object =>
  pick<() => object>(random, [
    () => ({ type: "text" }),
    () => ({ type: "json_object" }),
    () => ({ type: "json_schema", json_schema: { name: "x", schema: schemaOf(random), strict: flag(random) } }),
  ])();

function sampling(random: Random): Record<string, unknown> {
  return some(random, 20, {
    max_tokens: () => (chance(random, 97) ? 1 + random(12) : number(random)),
    temperature: () => rate(random, 2),
    top_p: () => 0.01 + rate(random, 0.99),
    top_k: () => random(50) - 1,
    seed: () => number(random),
    stop: () => (flag(random) ? text(random) : times(random, 4, () => `s${text(random)}`)),
    stream: () => flag(random),
    n: () => 1 + random(chance(random, 95) ? 3 : 200),
    presence_penalty: () => rate(random, 2),
    frequency_penalty: () => -rate(random, 2),
    logit_bias: () =>
      Object.fromEntries(times(random, 3, () => [chance(random, 80) ? String(random(300)) : text(random), random(250) - 110])),
    priority: () => random(9) - 4,
    user: () => text(random),
  });
}

const idsOf = (random: Random): number[] =>
  Array.from({ length: 1 + random(9) }, () => (chance(random, 97) ? random(300) : number(random)));
const promptOf = (random: Random): unknown =>
  pick<() => unknown>(random, [
    () => `p${text(random)}`,
    () => idsOf(random),
    () => times(random, 3, () => text(random)),
    () => times(random, 3, () => idsOf(random)),
  ])();

const bodies: Readonly<Record<string, (random: Random) => object>> = {
  "/v1/chat/completions": (random) => ({
    messages: [{ role: "user", content: text(random) }, ...times(random, 3, () => messageOf(random))],
    ...sampling(random),
    ...some(random, 12, {
      logprobs: () => flag(random),
      top_logprobs: () => random(22),
      tools: () => times(random, 2, () => ({ type: "function", function: toolOf(random) })),
      tool_choice: () => pick(random, ["none", "auto", "required", { type: "function", function: { name: pick(random, names) } }]),
      response_format: () => formatOf(random),
      reasoning_effort: () => pick(random, efforts),
      stream_options: () => ({ include_usage: flag(random) }),
    }),
  }),
  "/v1/completions": (random) => ({
    prompt: promptOf(random),
    ...sampling(random),
    ...some(random, 12, { echo: () => flag(random), logprobs: () => random(22) }),
  }),
  "/v1/responses": (random) => ({
    input: chance(random, 60)
      ? `i${text(random)}`
      : [{ role: "user", content: text(random) }, ...times(random, 2, () => ({ role: "assistant", content: text(random) }))],
    ...some(random, 20, {
      instructions: () => text(random),
      max_output_tokens: () => 1 + random(12),
      temperature: () => rate(random, 2),
      stream: () => flag(random),
      tools: () => times(random, 2, () => ({ type: "function", ...toolOf(random) })),
      reasoning: () => ({ effort: pick(random, [...efforts, null]), summary: pick(random, ["auto", "concise", null]) }),
      metadata: () => ({ a: text(random) }),
    }),
  }),
  "/v1/embeddings": (random) => ({
    input: promptOf(random),
    ...some(random, 20, { encoding_format: () => pick(random, ["float", "base64", "hex"]) }),
  }),
};

export const bodyOf = (random: Random, path: string): object => ({
  model: chance(random, 98) ? "tiny" : text(random),
  ...bodies[path]?.(random),
});
