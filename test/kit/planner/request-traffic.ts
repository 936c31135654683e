// Traffic of whole requests, for tests of the planner: the tokens of one request are alike, so two windows of a steady load differ by
// more than sampling explains. A topic says which experts its requests choose on average, every request differs from it. Pure.
import type { Random } from "../../../operator/planner/random.ts";

export interface TrafficOptions {
  readonly layers: number;
  readonly experts: number;
  /** Selections per layer of one request, and of all requests in a second. */
  readonly perRequest: number;
  readonly perSecond: number;
  /** Standard deviation of the logarithm of an expert's popularity: in a topic, and in a request beside its topic. */
  readonly skew: number;
  readonly unlike: number;
}

/** Popularity of experts, [layers][experts]; each layer adds up to 1. */
export type Topic = readonly Float64Array[];

export function topicOf({ layers, experts, skew }: TrafficOptions, random: Random): Topic {
  return Array.from({ length: layers }, () => normalised(Float64Array.from({ length: experts }, () => Math.exp(skew * random.normal()))));
}

export class Traffic {
  topic: Topic;
  readonly #options: TrafficOptions;
  readonly #random: Random;
  /** Selections that the open request has left, and what it chooses. */
  #left = 0;
  #request: Topic;

  constructor(options: TrafficOptions, topic: Topic, random: Random) {
    this.#options = options;
    this.topic = topic;
    this.#request = topic;
    this.#random = random;
  }

  /** Selections of the next second, [layers][experts]. */
  second(): number[][] {
    const { layers, experts, perRequest, perSecond } = this.#options;
    const counts = Array.from({ length: layers }, () => new Array<number>(experts).fill(0));
    for (let wanted = perSecond; wanted > 0; ) {
      if (this.#left === 0) {
        this.#left = perRequest;
        this.#request = this.#likeTopic();
      }
      const taken = Math.min(this.#left, wanted);
      this.#left -= taken;
      wanted -= taken;
      for (let l = 0; l < layers; l++) draw(this.#request[l] as Float64Array, taken, counts[l] as number[], this.#random);
    }
    return counts;
  }

  #likeTopic(): Topic {
    const { unlike } = this.#options;
    return this.topic.map((layer) => normalised(layer.map((share) => share * Math.exp(unlike * this.#random.normal()))));
  }
}

function normalised(weights: Float64Array): Float64Array {
  const all = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / all);
}

/** `n` selections, one after another. */
function draw(share: Float64Array, n: number, counts: number[], random: Random): void {
  for (let k = 0; k < n; k++) {
    let at = random.next();
    let e = 0;
    while (e < share.length - 1 && at >= (share[e] as number)) at -= share[e++] as number;
    counts[e] = (counts[e] as number) + 1;
  }
}
