// The tokenizer in a thread of its own: the same ids, and whatever a text or a template does there, the main thread goes on and the next
// text is served.
import assert from "node:assert/strict";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openTextModel, type TextThreadLimits, type ThreadedTextModel } from "./text-thread.ts";
import { loadTokenizer } from "./tokenizer.ts";

const tiny = join(import.meta.dirname, "../../test/golden/tiny-f32");
const cleanups: (() => Promise<unknown>)[] = [];
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
});

/** A copy of the tiny model's folder. */
async function folder(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "enodia-text-thread-"));
  cleanups.push(() => rm(dir, { recursive: true, force: true }));
  await cp(tiny, dir, { recursive: true });
  return dir;
}

async function openAt(dir: string, limits: TextThreadLimits): Promise<ThreadedTextModel> {
  const model = await openTextModel(dir, limits);
  cleanups.push(() => model.close());
  return model;
}

async function open(
  template?: string,
  limits: TextThreadLimits = { deadlineMs: 1_000 },
): Promise<{ model: ThreadedTextModel; dir: string }> {
  const dir = await folder();
  if (template !== undefined) await writeFile(join(dir, "chat_template.jinja"), template);
  return { model: await openAt(dir, limits), dir };
}

const messages = (content: string) => [{ role: "user" as const, content }];
/** A template that does the work only when a message asks for it, so that the first look at it is short. */
const when = (word: string, work: string) =>
  `{% for message in messages %}{{ message.content }}{% if message.content == '${word}' %}${work}{% endif %}{% endfor %}`;
const endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
const huge = "{% set all = namespace(items=[]) %}{% for a in range(100000) %}{% set all.items = [all.items, range(1000)] %}{% endfor %}";

/** The longest time for which the main thread did not come to its timers meanwhile. */
async function longestStall(work: () => Promise<unknown>): Promise<number> {
  let longest = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 5);
  await work();
  clearInterval(timer);
  return longest;
}

test("texts and chats have the ids that the tokenizer gives in place", async () => {
  const { model, dir } = await open();
  const here = await loadTokenizer(dir);
  for (const text of ["", "Hello, world!", "日本語 🙂", "<|im_start|>"]) {
    assert.deepEqual([...(await model.encode(text))], here.encode(text));
    assert.deepEqual([...(await model.encodeChat(messages(text)))], here.encodeChat(messages(text)));
  }
  assert.deepEqual([model.vocab, model.eosIds, model.charsPerTokenMax], [here.vocab, here.eosIds, here.charsPerTokenMax]);
});

test("a template without an end is stopped in its time, and the texts after it are served by a new thread", async () => {
  const { model } = await open(when("loop", endless));
  const waiting: Promise<unknown>[] = [];
  const stallMs = await longestStall(async () => {
    const hostile = assert.rejects(model.encodeChat(messages("loop")), {
      code: "InvalidRequest",
      message: /longer than 1\.\d* s.*shorten/,
    });
    waiting.push(model.encode("after it"), model.encodeChat(messages("and a chat")));
    await hostile;
    assert.deepEqual((await Promise.all(waiting)).length, 2);
  });
  assert.ok(stallMs < 500, `the main thread stood still for ${stallMs} ms`);
});

test("a regular expression without an end is stopped as a template is", async () => {
  const dir = await folder();
  const json = JSON.parse(await readFile(join(dir, "tokenizer.json"), "utf8"));
  json.pre_tokenizer.pretokenizers.unshift({ type: "Split", pattern: { Regex: "(a+)+$" }, behavior: "Isolated", invert: false });
  await writeFile(join(dir, "tokenizer.json"), JSON.stringify(json));
  const model = await openAt(dir, { deadlineMs: 1_000 });
  await assert.rejects(model.encode(`${"a".repeat(60)}b`), { code: "InvalidRequest", message: /took longer/ });
  assert.ok((await model.encode("b")).length > 0);
});

test("a template that fills its memory takes its thread along and nothing else", async () => {
  const { model } = await open(when("fill", huge), { deadlineMs: 60_000, memoryMib: 96 });
  await assert.rejects(model.encodeChat(messages("fill")), { code: "InvalidRequest", message: /too much memory/ });
  assert.ok((await model.encodeChat(messages("on"))).length > 0);
});

test("a short text does not wait for the long ones that came before it", async () => {
  const { model } = await open();
  const order: string[] = [];
  const noted = (name: string, text: string) => model.encode(text).then(() => order.push(name));
  await Promise.all([noted("running", "x".repeat(50_000)), noted("long", "word ".repeat(20_000)), noted("short", "word")]);
  assert.deepEqual(order, ["running", "short", "long"]);
});

test("a long text has its turn although shorter ones keep coming", async () => {
  const { model } = await open();
  let done = false;
  const until = performance.now() + 15_000;
  const short = async (): Promise<void> => {
    while (!done && performance.now() < until) await model.encode("word ".repeat(400));
  };
  const shorts = Array.from({ length: 8 }, short);
  const long = model.encode("word ".repeat(4_000)).then(() => {
    done = performance.now() < until;
  });
  await Promise.all([...shorts, long]);
  assert.ok(done);
});

test("texts that wait are bounded, and leave when their client does or the model closes", async () => {
  const { model } = await open(when("loop", endless), { deadlineMs: 30_000 });
  const running = assert.rejects(model.encodeChat(messages("loop")), { code: "Cancelled" });
  const client = new AbortController();
  const left = assert.rejects(model.encode("left", client.signal), { code: "Cancelled" });
  client.abort();
  await left;
  await assert.rejects(model.encode("gone before", client.signal), { code: "Cancelled" });
  const waiting = Array.from({ length: 256 }, () => assert.rejects(model.encode("wait"), { code: "Cancelled" }));
  await assert.rejects(model.encode("one more"), { code: "QueueFull" });
  await model.close();
  await Promise.all([running, ...waiting]);
});

test("where cores are few the main thread goes first", { skip: process.platform !== "linux" }, async () => {
  await open();
  const niceness = async (thread: string) => {
    const stat = await readFile(`/proc/self/task/${thread}/stat`, "utf8");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[16]);
  };
  const all = await Promise.all((await readdir("/proc/self/task")).map((thread) => niceness(thread).catch(() => 0)));
  assert.ok(all.includes((await niceness(String(process.pid))) + 10), `niceness ${all}`);
});

test("a folder whose tokenizer cannot be used is refused at once, by name", async () => {
  const dir = await folder();
  await writeFile(join(dir, "chat_template.jinja"), "{% for x in %}");
  await assert.rejects(openTextModel(dir), { code: "BadTokenizer", message: /chat template does not parse/ });
});
