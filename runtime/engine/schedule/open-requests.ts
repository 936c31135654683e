// An open request and its groups of rows in a step.
import type { Drafter } from "./drafter.ts";
import type { GenerateEvent } from "./request.ts";
import type { Sampled } from "./sampling/sampler.ts";
import { type GroupPlan, isGuess, type StepPart } from "./step-plan.ts";
import type { Place, Ticket } from "./waiting.ts";

export interface Open {
  readonly ticket: Ticket;
  readonly place: Place;
  /** The prompt and the tokens to replay. */
  text: Uint32Array;
  readonly limit: number;
  readonly known: number[];
  output: number;
  next: number;
  started: boolean;
  drafter: Drafter | undefined;
}

/** The first slot, and the positions that were written. */
interface At<Past> {
  readonly slot: number;
  readonly past: Past;
}

export function chunkOf({ ticket, text }: Open, { slot, past }: At<number>, most: number): GroupPlan {
  const { id, sampling, embed } = ticket;
  const count = Math.min(text.length - past, most);
  const last = past + count === text.length;
  const position = text.length - ticket.prompt.length;
  return {
    group: { phase: "prefill", tokens: count, ids: [id], firstSlot: slot, batch: 1, past: Int32Array.of(past) },
    tokens: [...text.subarray(past, past + count)],
    wanted: last ? [{ row: count - 1, id, position, sampling, embed }] : [],
  };
}

export function decodesOfAll(all: readonly Open[], { slot, past }: At<Int32Array>): GroupPlan {
  return {
    group: { phase: "decode", firstSlot: slot, batch: all.length, tokens: 1, past, ids: all.map(({ ticket }) => ticket.id) },
    tokens: all.map(({ next }) => next),
    wanted: all.map(({ ticket: { id, sampling }, output }, row) => ({ row, id, position: output, sampling, embed: false })),
  };
}

export function guessesOf(
  { ticket: { id, sampling }, next, output }: Open,
  { slot, past }: At<number>,
  guess: readonly number[],
): GroupPlan {
  const tokens = [next, ...guess];
  return {
    group: { phase: "decode", tokens: tokens.length, ids: [id], firstSlot: slot, batch: 1, past: Int32Array.of(past) },
    tokens,
    wanted: tokens.map((_, row) => ({ row, id, position: output + row, sampling, embed: false, guess: row })),
  };
}

export function textOf(prompt: Uint32Array, output: ArrayLike<number>): Uint32Array {
  const both = new Uint32Array(prompt.length + output.length);
  both.set(prompt);
  both.set(output, prompt.length);
  return both;
}

export function tokenEvent({ token, logprob, top }: Sampled, position: number): GenerateEvent {
  const event = { type: "token", id: token, position, logprob } as const;
  return top ? { ...event, top } : event;
}

/** No token was chosen from its first row that wants one. */
export function isLate({ group, from }: StepPart, given: ReadonlyMap<number, Sampled | undefined>): boolean {
  const row = isGuess(group) ? from : from + group.tokens - 1;
  return given.has(row) && given.get(row) === undefined;
}
