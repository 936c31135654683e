// Additions to logits and what is taken from them: the bias of chosen tokens, and penalties on those that came before.
import type { Sampling } from "../request.ts";

/** Logits that may be changed. */
export interface Edits {
  get(id: number): number;
  set(id: number, value: number): void;
}

/** A row of logits with some of them changed for one token. */
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

  /** A token may have been changed more than once: the first value is put back last. */
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
}

export class Penalties {
  readonly #sampling: Sampling;
  /** How often the output has each token that came before. */
  readonly #counts = new Map<number, number>();

  /** Undefined when the request asks for none of it, which then costs nothing. */
  static of(sampling: Sampling, { prompt, replay }: Tokens): Penalties | undefined {
    const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1, bias = [] } = sampling;
    if (presencePenalty === 0 && frequencyPenalty === 0 && repetitionPenalty === 1 && bias.length === 0) return undefined;
    const penalties = new Penalties(sampling);
    // A prompt's tokens are repeated, but the other two penalties are on what the model said itself.
    if (repetitionPenalty !== 1) for (const token of prompt) penalties.#counts.set(token, 0);
    for (const token of replay) penalties.accept(token);
    return penalties;
  }

  private constructor(sampling: Sampling) {
    this.#sampling = sampling;
  }

  /** Takes note of an output token. */
  accept(token: number): void {
    const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1 } = this.#sampling;
    if (presencePenalty === 0 && frequencyPenalty === 0 && repetitionPenalty === 1) return;
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1);
  }

  apply(edits: Edits): void {
    const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1, bias = [] } = this.#sampling;
    for (const { id, value } of bias) edits.set(id, edits.get(id) + value);
    for (const [id, count] of this.#counts) {
      const logit = edits.get(id);
      const repeated = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
      edits.set(id, repeated - frequencyPenalty * count - (count > 0 ? presencePenalty : 0));
    }
  }
}
