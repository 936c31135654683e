// The twenty prompts, greedy and sampled, as one list of texts: what must not depend on ranks, batch mates or moves.

import { ask } from "../kit/gateway/openai-client.ts";
import { asked, twentyPrompts } from "../kit/gateway/topics.ts";

export interface Texts {
  readonly greedy: readonly string[];
  readonly sampled: readonly string[];
}

/** Asks all prompts both ways, `parallel` at a time (batch mates vary with it). */
export async function collectTexts(url: () => Promise<string>, model: string, parallel: number): Promise<Texts> {
  const one = async (prompt: string, index: number, temperature: number): Promise<string> =>
    (await ask({ url: await url(), model, prompt, maxTokens: asked.tokens, temperature, seed: asked.seed(index) })).text;
  return {
    greedy: await inParallel(twentyPrompts, parallel, (prompt, index) => one(prompt, index, 0)),
    sampled: await inParallel(twentyPrompts, parallel, (prompt, index) => one(prompt, index, asked.temperature)),
  };
}

async function inParallel<T, R>(items: readonly T[], width: number, run: (item: T, index: number) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < items.length) {
      const index = next++;
      results[index] = await run(items[index] as T, index);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return results;
}
