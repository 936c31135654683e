// Traffic that stays the same whatever happens: a few clients, each with a request every so often, greedy, of which every
// answer must be the text it was when nothing moved. Keeps the time between any two tokens, and when it was.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { type Ask, ask } from "../kit/gateway/openai-client.ts";
import { twentyPrompts } from "../kit/gateway/topics.ts";
import { sleep } from "../kit/processes/process.ts";

export interface TrafficOptions {
  readonly url: () => string;
  /** Where a client repeats its request by key, once, when the connection to that address breaks; not given, it has failed. */
  readonly repeatAt?: (url: string) => string;
  readonly model: string;
  readonly clients: number;
  /** Milliseconds between the starts of two requests of a client; a slower answer delays the next. */
  readonly everyMs: number;
  readonly tokens: number;
}

interface Gap {
  /** Unix ms at its end. */
  readonly at: number;
  readonly ms: number;
}

export interface Traffic {
  readonly gaps: readonly Gap[];
  /** `repeated` requests had a broken connection, `cut` ones of them after a token. */
  readonly counts: { requests: number; failed: number; changed: number; repeated: number; cut: number };
  readonly errors: readonly string[];
  /** Asserts that no request failed and no text changed so far. */
  assertWhole(): void;
  stop(): Promise<void>;
}

const errorsKept = 20;
const retryMs = 200;
/** Different answers to the twenty prompts; random weights may say the same to two. */
const unlikeMin = 18;

/** Learns the texts first, one request at a time: nothing should move meanwhile. */
export async function startTraffic(options: TrafficOptions): Promise<Traffic> {
  const { model, tokens, clients, everyMs } = options;
  const answer = (prompt: string, more: Partial<Ask> = {}) =>
    ask({ url: options.url(), model, prompt, maxTokens: tokens, temperature: 0, ...more });
  const expected: string[] = [];
  for (const prompt of twentyPrompts) expected.push((await answer(prompt)).text);
  const unlike = new Set(expected).size;
  assert.ok(unlike >= unlikeMin, `prompts must give different texts, or equality proves nothing: ${unlike} of ${twentyPrompts.length}`);

  const gaps: Gap[] = [];
  const counts = { requests: 0, failed: 0, changed: 0, repeated: 0, cut: 0 };
  const errors: string[] = [];
  let running = true;
  let next = 0;
  const note = (error: string): void => {
    if (errors.length < errorsKept) errors.push(`${new Date().toISOString()} ${error}`);
  };
  const one = async (): Promise<void> => {
    const index = next++ % twentyPrompts.length;
    let previous = 0;
    try {
      const url = options.url();
      const asked = {
        ...(options.repeatAt ? { key: randomUUID() } : {}),
        onToken: () => {
          const at = performance.timeOrigin + performance.now();
          if (previous > 0) gaps.push({ at, ms: at - previous });
          previous = at;
        },
      };
      const prompt = twentyPrompts[index] as string;
      const { text } = await answer(prompt, { ...asked, url }).catch((error: unknown) => {
        if (!(options.repeatAt && error instanceof TypeError)) throw error;
        counts.repeated += 1;
        if (previous > 0) counts.cut += 1;
        return answer(prompt, { ...asked, url: options.repeatAt(url) });
      });
      if (text === expected[index]) return;
      counts.changed += 1;
      note(`prompt ${index}: "${text}" instead of "${expected[index]}"`);
    } catch (error) {
      counts.failed += 1;
      note(String(error));
      await sleep(retryMs);
    } finally {
      counts.requests += 1;
    }
  };
  const client = async (offsetMs: number): Promise<void> => {
    await sleep(offsetMs);
    while (running) {
      const started = performance.now();
      await one();
      await sleep(Math.max(0, everyMs - (performance.now() - started)));
    }
  };
  const all = Array.from({ length: clients }, (_, i) => client((i * everyMs) / clients));
  return {
    gaps,
    counts,
    errors,
    assertWhole: () => {
      assert.equal(counts.failed, 0, errors[0]);
      assert.equal(counts.changed, 0, errors[0]);
    },
    stop: async () => {
      running = false;
      await Promise.all(all);
    },
  };
}
