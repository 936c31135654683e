// A gateway with the tokenizer of a real folder: while a text or a chat template keeps it busy, the tokens of others come as before. The
// gateway, its worker and its clients share this test's one main thread, as the gateway's streams share its own.
import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chat, post, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import { openTextModel } from "../text/text-thread.ts";

const tokenMs = 20;
const tokens = 150;
/** The work takes seconds: as a whole it would stand between two tokens, and a busy machine holds up a token for less. */
const gapMsMax = 1_000;
/** Main-thread time for reading the request, its body in this test's client included, and for refusing it. */
const requestCpuMs = 300;

let dir: string;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "enodia-gateway-text-"));
  await cp(join(import.meta.dirname, "../../test/golden/tiny-f32"), dir, { recursive: true });
  const config = JSON.parse(await readFile(join(dir, "config.json"), "utf8"));
  await writeFile(join(dir, "config.json"), JSON.stringify({ ...config, max_position_embeddings: 1_000_000 }));
  const busy = "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}";
  await writeFile(
    join(dir, "chat_template.jinja"),
    `{% for message in messages %}{{ message.content }}{% if message.content == 'hostile' %}${busy}{% endif %}{% endfor %}`,
  );
});
after(() => rm(dir, { recursive: true, force: true }));

const { startAll, onEnd } = useGateways();

interface Measured {
  /** Milliseconds between tokens: the longest, and what 99 of 100 are below. */
  readonly longest: number;
  readonly p99: number;
  /** Milliseconds that the main thread computed meanwhile. */
  readonly cpuMs: number;
}

async function streamOf(url: string): Promise<Measured> {
  const before = process.threadCpuUsage();
  const body = { model: "tiny", prompt: [5], max_tokens: tokens, temperature: 0, stream: true };
  const response = await post(`${url}/v1/completions`, body);
  const gaps: number[] = [];
  let last: number | undefined;
  for await (const _ of response.body ?? []) {
    const now = performance.now();
    if (last !== undefined) gaps.push(now - last);
    last = now;
  }
  gaps.sort((a, b) => a - b);
  const { user, system } = process.threadCpuUsage(before);
  return { longest: gaps.at(-1) ?? 0, p99: gaps[Math.floor(gaps.length * 0.99)] ?? 0, cpuMs: (user + system) / 1_000 };
}

const told = ({ longest, p99, cpuMs }: Measured) =>
  `p99 ${p99.toFixed(1)} ms, longest ${longest.toFixed(1)} ms, computed ${cpuMs.toFixed(0)} ms`;

const works: Record<string, { path: string; body: object; want: RegExp }> = {
  "a template without an end": {
    path: "/v1/chat/completions",
    body: chat({ messages: [{ role: "user", content: "hostile" }] }),
    want: /longer than 5/,
  },
  "a prompt of two million characters": {
    path: "/v1/completions",
    body: { model: "tiny", prompt: "The router sends. ".repeat(111_112), max_tokens: 1 },
    want: /context holds|longer than/,
  },
};

for (const [name, { path, body, want }] of Object.entries(works)) {
  test(`${name} holds up the tokens of no other stream`, async (t) => {
    const textModel = await openTextModel(dir);
    onEnd(() => textModel.close());
    const { url } = await startAll([{ delayMs: tokenMs, token: () => 40 }], { maxContext: 1_000_000 }, { textModel });
    await streamOf(url); // code that runs for the first time is slow
    const alone = await streamOf(url);
    const work = post(`${url}${path}`, body);
    const beside = await streamOf(url);
    const answer = await work;
    t.diagnostic(`between tokens alone: ${told(alone)}; beside it: ${told(beside)}`);
    assert.ok(beside.longest < gapMsMax, `a token came ${beside.longest} ms after the one before it`);
    // What a machine's other work does to the p99 it does to any thread; that the main thread computes no more than before does not
    // depend on it, and keeps the p99 where it was.
    assert.ok(beside.cpuMs <= alone.cpuMs * 1.2 + requestCpuMs, `the main thread computed ${alone.cpuMs} ms alone, ${beside.cpuMs} ms now`);
    assert.equal(answer.status, 400);
    assert.match(await answer.text(), want);
  });
}
