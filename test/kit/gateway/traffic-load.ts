// Steady closed-loop traffic: N clients ask prompts of one topic after another until stopped. A topic switch is a load shift,
// because the router sends different topics to different experts. Bounded: each client has one request open.
// Prompts are long and never begin alike, so that most selections come from prefill and no prefix is reused.
import { type Answer, ask } from "./openai-client.ts";
import { type Topic, topics } from "./topics.ts";

export interface LoadOptions {
  readonly url: () => string;
  readonly model: string;
  readonly clients: number;
  readonly topic: Topic;
  readonly maxTokens?: number;
  /** Texts of the topic in one prompt; about 60 tokens each. */
  readonly textsPerPrompt?: number;
  readonly onAnswer?: (answer: Answer) => void;
  /** Cancels what is open and asks no more, as `stop`; what it cancels has not failed. */
  readonly signal?: AbortSignal | undefined;
}

export interface Load {
  readonly counts: { requests: number; failed: number; tokens: number };
  readonly errors: readonly string[];
  readonly gapsMs: number[];
  /** Resolves when the last request of the former topic has ended: from then on the load is of the new one. */
  switchTo(topic: Topic): Promise<void>;
  stop(): Promise<void>;
}

const errorsKept = 20;
const switchPollMs = 100;

/** The i-th prompt of a topic: a number, so that prompts differ from the start, and texts in an order that depends on it. */
function promptOf(topic: Topic, i: number, texts: number): string {
  const all = topics[topic];
  const step = 1 + (Math.floor(i / all.length) % (all.length - 1)); // walks through the texts in different orders
  const chosen = Array.from({ length: texts }, (_, k) => all[(i + k * step) % all.length]);
  return `${i}. ${chosen.join("\n\n")}`;
}

export function startLoad(options: LoadOptions): Load {
  const counts = { requests: 0, failed: 0, tokens: 0 };
  const errors: string[] = [];
  const gapsMs: number[] = [];
  let topic = options.topic;
  let running = true;
  let next = 0;
  /** Topic of each client's open request. */
  const asking: Topic[] = [];
  const client = async (index: number): Promise<void> => {
    while (running && !options.signal?.aborted) {
      asking[index] = topic;
      const prompt = promptOf(topic, next++, options.textsPerPrompt ?? 4);
      try {
        const answer = await ask({
          url: options.url(),
          model: options.model,
          prompt,
          maxTokens: options.maxTokens ?? 16,
          temperature: 0.7,
          seed: next,
          signal: options.signal,
        });
        counts.tokens += answer.usage?.completion_tokens ?? answer.chunks;
        gapsMs.push(...answer.gapsMs);
        options.onAnswer?.(answer);
      } catch (error) {
        if (options.signal?.aborted) return;
        counts.failed += 1;
        if (errors.length < errorsKept) errors.push(String(error));
        await new Promise((done) => setTimeout(done, 200));
      }
      counts.requests += 1;
    }
  };
  const clients = Array.from({ length: options.clients }, (_, i) => client(i));
  return {
    counts,
    errors,
    gapsMs,
    switchTo: async (to) => {
      topic = to;
      while (running && !options.signal?.aborted && asking.some((each) => each !== to))
        await new Promise((done) => setTimeout(done, switchPollMs));
    },
    stop: async () => {
      running = false;
      await Promise.all(clients);
    },
  };
}
