// Chat templates as models bring them, put together from what such templates do and damaged, with chats and tools of any kind: they are
// loaded and render, or say why not.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ChatMessage } from "../../../runtime/text/text-model.ts";
import { loadTokenizer } from "../../../runtime/text/tokenizer.ts";
import type { Tool } from "../../../runtime/text/tools/tool-format.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damaged, type Random } from "../mutate.ts";
import { chance, json, pick, text, times } from "../words.ts";
import { fileRefusals, golden } from "./files.ts";

interface Subject {
  readonly folder: string;
  readonly whole: readonly string[];
  readonly load: typeof loadTokenizer;
}

interface Input {
  readonly template: Buffer;
  readonly messages: readonly ChatMessage[];
  readonly tools: readonly Tool[];
}

const busy = `{%- set ns = namespace(n=0) %}{%- macro say(m) %}[{{ m.role|upper }}]{{ m['content']|trim }}{%- endmacro %}
{%- if messages[0].role == 'system' %}{{ raise_exception('no system') }}{%- endif %}
{%- for m in messages %}{%- set ns.n = ns.n + 1 %}{{ say(m) }}{% if loop.last and add_generation_prompt %}{{ bos_token + 'go' }}{% endif %}{%- endfor %}`;
const called = `{%- if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}{%- for m in messages %}{% if m.tool_calls %}
{%- for c in m.tool_calls %}<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}
{%- else %}{{ m.content }}{% endif %}{%- endfor %}`;

const expressions = [
  ...[
    "m.content",
    "m['role']|upper",
    "messages|length",
    "messages[-1].content[:3]",
    "loop.index0",
    "tools|tojson",
    "m.tool_calls",
    "x.y.z",
  ],
  ...[
    "'a' ~ 1",
    "range(3)|join(',')",
    "m.content.split('</think>')[-1]|trim",
    "none",
    "1/0",
    "-1 // 0",
    "{}['a']",
    "'%s'|format(m)",
    "m()",
  ],
  ...[
    "strftime_now('%Y')",
    "m|items|list",
    "'a' * 3",
    "[1,2][9]",
    "namespace(a=1).a",
    "messages|selectattr('role','equalto','user')|list|length",
  ],
];

function templateOf(random: Random, depth: number): string {
  const kind = random(depth > 0 ? 8 : 3);
  const expression = pick(random, expressions);
  if (kind === 0) return text(random, 4).replaceAll("{", "(");
  if (kind === 1) return `{{ ${expression} }}`;
  if (kind === 2) return `{%- set x = ${expression} %}`;
  const inner = () => times(random, 3, () => templateOf(random, depth - 1)).join("");
  if (kind === 3) return `{% for m in messages %}${inner()}{% endfor %}`;
  if (kind === 4) return `{%- if ${expression} %}${inner()}{% elif m is defined %}${inner()}{% else %}${inner()}{% endif -%}`;
  if (kind === 5) return `{% macro f(m) %}${inner()}{% endmacro %}{{ f(messages[0]) }}`;
  if (kind === 6) return `{% generation %}${inner()}{% endgeneration %}`;
  return inner();
}

function messageOf(random: Random): ChatMessage {
  const content = chance(random, 20) ? "a <|im_end|> b" : text(random);
  if (chance(random, 10)) return { role: "tool", content, toolCallId: "c1" };
  const calls = [{ id: "c1", name: "f", arguments: JSON.stringify({ a: json(random, 2) }) }];
  if (chance(random, 15)) return { role: "assistant", content, toolCalls: calls };
  return {
    role: pick(random, ["user", "assistant", "system"] as const),
    content,
    ...(chance(random, 10) ? { name: text(random, 4) } : {}),
  };
}

export const templates: Fuzzer<Subject, Input> = {
  name: "templates",
  share: 10,
  deadlineMs: 20_000,
  refusals: [...fileRefusals, "InvalidRequest"],
  async start(scratch) {
    const folder = join(scratch, "template");
    await mkdir(folder);
    await writeFile(join(folder, "config.json"), JSON.stringify({ vocab_size: 320 }));
    await writeFile(join(folder, "tokenizer.json"), await readFile(join(golden, "tiny-f32/tokenizer.json")));
    return { folder, whole: [await readFile(join(golden, "tiny-f32/chat_template.jinja"), "utf8"), busy, called], load: loadTokenizer };
  },
  input(random, { whole }) {
    const template = Buffer.from(chance(random, 40) ? pick(random, whole) : times(random, 5, () => templateOf(random, 3)).join(""));
    return {
      template: chance(random, 50) ? damaged(template, random, 400) : template,
      messages: [messageOf(random), ...times(random, 3, () => messageOf(random))],
      tools: chance(random, 70) ? [] : [{ name: "f", parameters: { type: "object", properties: { a: {} } } }],
    };
  },
  async attempt({ folder, load }, { template, messages, tools }) {
    await writeFile(join(folder, "chat_template.jinja"), template);
    const tokenizer = await load(folder);
    tokenizer.encodeChat(messages, tools);
  },
  plant: (subject) => ({ ...subject, load: unguarded(loadTokenizer, /does not parse/) }),
};
