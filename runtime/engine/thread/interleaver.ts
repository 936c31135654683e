// Interleaves two kinds of steps: one that decodes, or one of prompts, between whose graphs those that decode run (../DECISIONS.md 12).
import type { Batcher } from "../schedule/batch.ts";
import type { Step } from "../schedule/step-plan.ts";

interface Parts {
  readonly batcher: Pick<Batcher, "nextPrompts" | "nextDecodes">;
  readonly run: (step: Step) => Promise<void>;
  /** Moves a block of KV; undefined where none waits. */
  readonly move?: () => Promise<void> | undefined;
  /** Milliseconds of prompts between two steps that decode, at most. */
  readonly waitMs: number;
  readonly now: () => number;
}

export class Interleaver {
  readonly #parts: Parts;
  #decodedAt = Number.NEGATIVE_INFINITY;
  /** When the newest graph of a prompt began, and what the one before took; undefined since the last step that decoded. */
  #graphAt = 0;
  #graphMs: number | undefined;
  #prompts = false;
  #decodes = false;
  /** What ended a step that decodes, which no prompt's step may take for its own. */
  #fault: unknown;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Runs the next step; undefined when there is nothing to do. Throws what a step that decodes has thrown between graphs. */
  next(): Promise<void> | undefined {
    if (this.#fault !== undefined) throw this.#fault;
    const decode = this.#isDue() ? this.#decode() : undefined;
    return decode ?? this.#prompt() ?? this.#decode();
  }

  /** Runs a step that decodes if the next graph of a prompt would take longer than it may wait, or moves a block of KV. */
  between(): Promise<void> | undefined {
    if (!this.#prompts || this.#decodes) return undefined;
    const now = this.#parts.now();
    this.#graphMs = now - this.#graphAt;
    this.#graphAt = now;
    return this.#isDue() ? this.#decode() : this.#alone(() => this.#parts.move?.());
  }

  #isDue(): boolean {
    return this.#graphMs !== undefined && this.#parts.now() + this.#graphMs - this.#decodedAt > this.#parts.waitMs;
  }

  #prompt(): Promise<void> | undefined {
    const step = this.#parts.batcher.nextPrompts();
    if (step === undefined) return undefined;
    this.#prompts = true;
    this.#graphAt = this.#parts.now();
    return this.#parts.run(step).finally(() => {
      this.#prompts = false;
    });
  }

  #decode(): Promise<void> | undefined {
    const step = this.#parts.batcher.nextDecodes();
    return this.#alone(() => step && this.#parts.run(step))?.finally(() => {
      this.#decodedAt = this.#parts.now();
      this.#graphAt = this.#decodedAt;
      this.#graphMs = undefined;
    });
  }

  /** No other step begins meanwhile: slots change in the order in which that was decided. */
  #alone(begin: () => Promise<void> | undefined): Promise<void> | undefined {
    this.#decodes = true;
    const run = begin();
    this.#decodes = run !== undefined;
    const failed = (caught: unknown): void => {
      this.#fault = caught;
      if (!this.#prompts) throw caught;
    };
    return run?.catch(failed).finally(() => {
      this.#decodes = false;
    });
  }
}
