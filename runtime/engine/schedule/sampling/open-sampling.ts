// The sampling state of one open request, derived from its own prompt and output.
import { AppError } from "../../../../crds/common.ts";
import type { Held, Languages } from "../../../constraints/languages.ts";
import type { Sampling } from "../request.ts";
import { Penalties } from "./penalties.ts";

export interface SampledRequest {
  readonly prompt: Uint32Array;
  readonly replay: Uint32Array;
  readonly sampling: Sampling;
  readonly eos: Iterable<number>;
}

export class OpenSampling {
  readonly sampling: Sampling;
  readonly penalties: Penalties | undefined;
  readonly held: Held | undefined;
  #next: number;

  /** Throws AppError `InvalidRequest`, which names the field. */
  constructor(request: SampledRequest, languages: Languages) {
    const { sampling, replay } = request;
    checkSampling(sampling, languages.vocab);
    this.sampling = sampling;
    this.penalties = Penalties.of(sampling, request);
    this.held = sampling.constraint && languages.hold(sampling.constraint, [...request.eos], replay);
    this.#next = replay.length;
  }

  accept(token: number, position: number): void {
    if (position !== this.#next) throw new RangeError(`output token ${position} was chosen, ${this.#next} comes next`);
    this.#next += 1;
    this.penalties?.accept(token);
    this.held?.accept(token);
  }
}

const bounds = {
  temperature: [0, 100],
  topP: [0, 1],
  topK: [0, 0xffffffff],
  topLogprobs: [0, 20],
  minP: [0, 1],
  presencePenalty: [-2, 2],
  frequencyPenalty: [-2, 2],
  minTokens: [0, 0xffffffff],
  repetitionPenalty: [0.001, 10], // f32 on the wire makes the gateway's 0.01 smaller
} as const satisfies Partial<Record<keyof Sampling, readonly [number, number]>>;

const biasMax = 1_024;
const biasValueMax = 100;

function checkSampling(sampling: Sampling, vocab: number): void {
  const invalid = (message: string): AppError => new AppError(`sampling.${message}`, { code: "InvalidRequest" });
  for (const [field, [least, most]] of Object.entries(bounds)) {
    const value = sampling[field as keyof typeof bounds];
    if (value !== undefined && !(value >= least && value <= most)) throw invalid(`${field}: ${value}, must be ${least} to ${most}`);
  }
  const { bias = [] } = sampling;
  if (bias.length > biasMax) throw invalid(`bias: ${bias.length} tokens, at most ${biasMax}`);
  for (const { id, value } of bias) {
    if (!(id < vocab)) throw invalid(`bias: token ${id} is outside the vocabulary of ${vocab}`);
    if (!(Math.abs(value) <= biasValueMax)) throw invalid(`bias: ${value} for token ${id}, must be -${biasValueMax} to ${biasValueMax}`);
  }
}
