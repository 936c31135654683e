// llama.cpp in a process of its own, doing what the benchmark asks of it: the loop of a C program, batch after batch, without sampling.
// Entry of that process; peer.ts starts it.
import { type BatchRow, type LlamaContext, LlamaLibrary } from "./library.ts";
import type { Answer, Order } from "./peer.ts";

let library: LlamaLibrary;
const contexts = new Map<string, LlamaContext>();
let model = 0n;
let vocab = 0;

/** Contexts are kept: making one costs more than what is measured. */
function contextOf(sequences: number, tokens: number, threads: number): LlamaContext {
  const key = `${sequences} ${tokens} ${threads}`;
  const context = contexts.get(key) ?? library.context(model, { sequences, tokens, threads });
  contexts.set(key, context);
  context.clear();
  return context;
}

/** The rows of one text from a place on; `logits` of all of them, or of the last. */
const rowsOf = (tokens: readonly number[], sequence: number, logits: "all" | "last"): BatchRow[] =>
  tokens.map((token, position) => ({ token, position, sequence, logits: logits === "all" || position === tokens.length - 1 }));

const seconds = (from: number): number => (performance.now() - from) / 1000;

const work: { readonly [K in Order["kind"]]: (order: Extract<Order, { kind: K }>) => number[] } = {
  load(order) {
    library = new LlamaLibrary(order.on, order.onlyMapped);
    model = library.load(order.path);
    vocab = order.vocab;
    process.stderr.write(`${library.systemInfo}\n`);
    return [];
  },

  /** How far below the best logit each of the continuation's tokens is. */
  gaps({ prompt, continuation, tokens, threads }) {
    const context = contextOf(1, tokens, threads);
    context.run(rowsOf([...prompt, ...continuation], 0, "all"));
    return continuation.map((token, i) => {
      const logits = context.logits(prompt.length - 1 + i, vocab);
      const best = logits.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
      return best - (logits[token] as number);
    });
  },

  /** Seconds of the steps behind the prompts, each a token of every text. */
  decode({ texts, promptTokens, tokens, threads }) {
    const context = contextOf(texts.length, tokens, threads);
    for (const [sequence, text] of texts.entries()) context.run(rowsOf(text.slice(0, promptTokens), sequence, "last"));
    const steps = Math.min(...texts.map(({ length }) => length)) - promptTokens;
    const from = performance.now();
    for (let position = promptTokens; position < promptTokens + steps; position++) {
      context.run(texts.map((text, sequence) => ({ token: text[position] as number, position, sequence, logits: true })));
    }
    return [seconds(from), steps];
  },

  prefill({ text, tokens, threads }) {
    const context = contextOf(1, tokens, threads);
    const from = performance.now();
    context.run(rowsOf(text, 0, "last"));
    return [seconds(from)];
  },

  logits({ text, tokens, threads }) {
    const context = contextOf(1, tokens, threads);
    context.run(rowsOf(text, 0, "last"));
    return [...context.logits(text.length - 1, vocab)];
  },
};

process.on("message", (order: Order) => {
  let answer: Answer;
  try {
    answer = { values: (work[order.kind] as (order: Order) => number[])(order) };
  } catch (caught) {
    answer = { error: caught instanceof Error ? caught.message : String(caught) };
  }
  process.send?.(answer);
});
process.on("disconnect", () => process.exit(0));
