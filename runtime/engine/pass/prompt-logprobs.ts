// Log-probabilities of prompt tokens: each row of a step rates the token after it, a few rows of logits at a time.
import { AppError } from "../../../crds/common.ts";
import type { GenerateEvent, RatedToken } from "../schedule/request.ts";
import { Sampler } from "../schedule/sampling/sampler.ts";
import { partsOf, type Step } from "../schedule/step-plan.ts";
import type { Head } from "./head.ts";

const logitsBytesMost = 8 * 1024 * 1024;

interface Asked {
  readonly prompt: Uint32Array;
  readonly topLogprobs: number;
  next: number;
}

interface PromptRow {
  readonly id: string;
  readonly row: number;
  readonly position: number;
  readonly token: number;
  readonly topLogprobs: number;
}

export interface PromptPorts {
  readonly head: Pick<Head, "each">;
  readonly vocab: number;
  readonly between: () => Promise<void> | undefined;
  readonly tell: (id: string, event: GenerateEvent) => void;
}

export class PromptLogprobs {
  readonly #ports: PromptPorts;
  readonly #rowsAtOnce: number;
  readonly #asked = new Map<string, Asked>();
  readonly #sampler = new Sampler();

  constructor(ports: PromptPorts) {
    this.#ports = ports;
    this.#rowsAtOnce = Math.max(1, Math.floor(logitsBytesMost / (ports.vocab * Float32Array.BYTES_PER_ELEMENT)));
  }

  add(id: string, prompt: Uint32Array, topLogprobs = 0): void {
    this.#asked.set(id, { prompt, topLogprobs, next: 1 });
  }

  drop(id: string): void {
    this.#asked.delete(id);
  }

  /** True where rows of the step rate a prompt's tokens. */
  wants(step: Pick<Step, "groups">): boolean {
    return this.#asked.size > 0 && this.#rows(step).length > 0;
  }

  async tell(step: Pick<Step, "groups">, x: Float32Array, unusable: Map<string, AppError>): Promise<void> {
    const rows = this.#rows(step).filter(({ id }) => !unusable.has(id));
    for (let from = 0; from < rows.length; from += this.#rowsAtOnce) {
      const some = rows.slice(from, from + this.#rowsAtOnce);
      const byRequest = new Map<string, { readonly position: number; readonly tokens: RatedToken[] }>();
      const use = (logits: Float32Array, i: number): void => {
        const { id, token, position, topLogprobs } = some[i] as PromptRow;
        if (unusable.has(id)) return;
        try {
          const rated = this.#sampler.rate(logits, token, position, topLogprobs);
          const one = byRequest.get(id) ?? { position, tokens: [] };
          one.tokens.push(rated);
          byRequest.set(id, one);
        } catch (caught) {
          unusable.set(id, AppError.from(caught));
        }
      };
      await this.#ports.head.each(
        x,
        some.map(({ row }) => row),
        use,
      );
      for (const [id, { position, tokens }] of byRequest) this.#report(id, position, tokens);
      await this.#ports.between();
    }
  }

  #report(id: string, position: number, tokens: readonly RatedToken[]): void {
    const asked = this.#asked.get(id);
    if (asked === undefined) return; // it was cancelled meanwhile
    asked.next = position + tokens.length;
    this.#ports.tell(id, { type: "prompt", position, tokens });
  }

  #rows(step: Pick<Step, "groups">): PromptRow[] {
    const rows: PromptRow[] = [];
    for (const { id, group, past, from } of partsOf(step)) {
      const asked = group.phase === "prefill" ? this.#asked.get(id) : undefined;
      if (asked === undefined) continue;
      const { prompt, topLogprobs, next } = asked;
      const end = Math.min(past + group.tokens + 1, prompt.length);
      for (let position = Math.max(next, past + 1); position < end; position++)
        rows.push({ id, row: from + position - 1 - past, position, token: prompt[position] as number, topLogprobs });
    }
    return rows;
  }
}
