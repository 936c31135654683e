// Switches of chat templates for thoughts: which templates have one, what they are told, and what a real tokenizer renders by it.
import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { efforts, thinkingOf } from "./thinking.ts";
import { loadTokenizer } from "./tokenizer.ts";

const qwen = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}";
const deepseek = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% if thinking %}<think>{% endif %}";
const gptOss = '{% if reasoning_effort is not defined %}{% set reasoning_effort = "medium" %}{% endif %}';
const told = (template: string) => efforts.map((effort) => thinkingOf(template)?.(effort));

test("a template is told what it has a word for", () => {
  const onOff = (name: string) => efforts.map((effort) => ({ [name]: effort !== "none" }));
  assert.deepEqual(told(qwen), onOff("enable_thinking"));
  assert.deepEqual(told(deepseek), onOff("thinking"));
  const words = [undefined, "low", "low", "medium", "high", "high"];
  assert.deepEqual(
    told(gptOss),
    words.map((word) => (word === undefined ? undefined : { reasoning_effort: word })),
  );
  assert.deepEqual(told(qwen + gptOss).slice(0, 2), [{ enable_thinking: false }, { enable_thinking: true, reasoning_effort: "low" }]);
  for (const template of ["", "{{ messages }}", "{{ content.split('</think>') }} thinking", "{{ my_enable_thinking }}"])
    assert.equal(thinkingOf(template), undefined, template);
});

test("a tokenizer renders by the effort, tells the marks of thoughts, and takes none of a message's words for a switch", async () => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-thinking-"));
  await cp(join(import.meta.dirname, "../../test/golden/tiny-f32"), dir, { recursive: true });
  const file = join(dir, "tokenizer.json");
  const json = JSON.parse(await readFile(file, "utf8"));
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };
  const first = Math.max(...Object.values<number>(json.model.vocab), ...json.added_tokens.map(({ id }: { id: number }) => id)) + 1;
  json.added_tokens.push({ id: first, content: "<think>", ...flags }, { id: first + 1, content: "</think>", ...flags });
  await writeFile(file, JSON.stringify(json));
  const config = JSON.parse(await readFile(join(dir, "config.json"), "utf8"));
  await writeFile(join(dir, "config.json"), JSON.stringify({ ...config, vocab_size: first + 2 }));
  await writeFile(
    join(dir, "chat_template.jinja"),
    `{%- for message in messages %}[{{ message.content }}]{% endfor -%}${qwen}{% if enable_thinking %}<think>{% endif %}`,
  );
  const tokenizer = await loadTokenizer(dir);
  const messages = [{ role: "user", content: "enable_thinking false" }] as const;
  const text = (effort?: (typeof efforts)[number]) => tokenizer.chatText(messages, [], effort && tokenizer.thinking?.(effort));
  assert.deepEqual(
    [text(), text("none"), text("low")],
    ["", "<think>\n\n</think>\n\n", "<think>"].map((end) => `[enable_thinking false]${end}`),
  );
  assert.deepEqual(tokenizer.thoughts, { open: first, close: first + 1 });
  assert.equal(tokenizer.encodeChat(messages, [], { enable_thinking: true }).at(-1), first);
  await rm(dir, { recursive: true });
});
