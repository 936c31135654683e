// Bias, penalties and the least length on logits.
import type { Sampling } from "../request.ts";

export interface Edits {
  get(id: number): number;
  set(id: number, value: number): void;
}

/** A row of logits with temporary changes for one token. */
export class RowEdits implements Edits {
  #row: Float32Array = new Float32Array(0);
  #ids = new Uint32Array(64);
  #before = new Float32Array(64);
  #count = 0;

  begin(row: Float32Array): void {
    this.#row = row;
    this.#count = 0;
  }

  get(id: number): number {
    return this.#row[id] as number;
  }

  set(id: number, value: number): void {
    if (this.#count === this.#ids.length) this.#grow();
    this.#ids[this.#count] = id;
    this.#before[this.#count] = this.#row[id] as number;
    this.#count += 1;
    this.#row[id] = value;
  }

  /** The order is reversed, since a token may have changed more than once. */
  undo(): void {
    while (this.#count > 0) {
      this.#count -= 1;
      this.#row[this.#ids[this.#count] as number] = this.#before[this.#count] as number;
    }
  }

  #grow(): void {
    const [ids, before] = [new Uint32Array(2 * this.#count), new Float32Array(2 * this.#count)];
    ids.set(this.#ids);
    before.set(this.#before);
    [this.#ids, this.#before] = [ids, before];
  }
}

interface Tokens {
  readonly prompt: Uint32Array;
  readonly replay: Uint32Array;
  readonly eos: Iterable<number>;
}

/** Below any logit, and finite as logits have to be. */
const never = -1e30;

export class Penalties {
  readonly #sampling: Sampling;
  /** Occurrences in the output of each earlier token. */
  readonly #counts = new Map<number, number>();
  readonly #eos: Iterable<number>;
  /** Tokens of the output. */
  #length = 0;

  /** Undefined when the request uses none of it. */
  static of(sampling: Sampling, { prompt, replay, eos }: Tokens): Penalties | undefined {
    const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1, bias = [], minTokens = 0 } = sampling;
    if (presencePenalty === 0 && frequencyPenalty === 0 && repetitionPenalty === 1 && bias.length === 0 && minTokens === 0)
      return undefined;
    const penalties = new Penalties(sampling, eos);
    // The repetition penalty counts the prompt; the other two count the output only.
    if (repetitionPenalty !== 1) for (const token of prompt) penalties.#counts.set(token, 0);
    for (const token of replay) penalties.accept(token);
    return penalties;
  }

  private constructor(sampling: Sampling, eos: Iterable<number>) {
    this.#sampling = sampling;
    this.#eos = eos;
  }

  accept(token: number): void {
    this.#length += 1;
    const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1 } = this.#sampling;
    if (presencePenalty === 0 && frequencyPenalty === 0 && repetitionPenalty === 1) return;
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1);
  }

  apply(edits: Edits): void {
    const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1, bias = [], minTokens = 0 } = this.#sampling;
    for (const { id, value } of bias) edits.set(id, edits.get(id) + value);
    for (const [id, count] of this.#counts) {
      const logit = edits.get(id);
      const repeated = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
      edits.set(id, repeated - frequencyPenalty * count - (count > 0 ? presencePenalty : 0));
    }
    if (this.#length < minTokens) for (const id of this.#eos) edits.set(id, never);
  }
}
