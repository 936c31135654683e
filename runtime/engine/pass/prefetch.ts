// Asks a predictor which experts later layers will choose, while a layer computes, and tells those that this rank serves. Nothing here
// decides what is computed, and a router that fails names nothing.
import type { Compiled } from "../../compute/backend.ts";
import {
  type AheadInput,
  type Choice,
  layerBehind,
  type Predictor,
  type PredictorKind,
  predict,
} from "../../experts/prefetch/predictor.ts";
import type { ExpertGrid } from "../../placement/grid.ts";
import type { ExpectedExperts } from "../api.ts";
import type { ExpertTable } from "./expert-table.ts";

/** A layer's router by itself. */
export interface LayerRouter {
  readonly input: string;
  readonly compiled: Compiled;
}

/** Layers with experts behind the one that computes (../../experts/DECISIONS.md 8). */
const lookahead = 2;
/** Rows that routers are asked with, evenly apart, since a prompt has thousands. */
const askedRowsMax = 16;
const namedMax = 64;

interface PrefetchOptions {
  readonly kind: PredictorKind;
  readonly grid: ExpertGrid;
  readonly hidden: number;
  /** One for each layer; undefined where a router reads more than its rows. */
  readonly routers: readonly (LayerRouter | undefined)[];
  readonly experts: Pick<ExpertTable, "has" | "lock">;
  readonly serves: (layer: number, expert: number) => boolean;
  readonly tell: (expected: ExpectedExperts) => void;
}

interface Chosen extends Pick<Choice, "layer" | "ids" | "topK"> {
  /** As in its part of a step. */
  readonly first: number;
  readonly decodes: number;
}

interface Rows {
  readonly layer: number;
  readonly part: number;
  readonly count: number;
  readonly data: Float32Array; // [count, hidden]
}

type Ahead = NonNullable<Choice["ahead"]>;

export class Prefetch {
  readonly #options: PrefetchOptions;
  readonly #predictor: Predictor;
  /** One for each part. */
  readonly #before: Rows[] = [];
  /** Something absent was named last. */
  #named = false;

  constructor(options: PrefetchOptions) {
    const { kind, grid } = options;
    this.#options = options;
    this.#predictor = kind.create({ grid });
  }

  /**
   * `h`: what the layer's router read, before its norm, [rows, hidden]; unset where rows stay on a device. Routers run before what the
   * caller computes with the lock behind this call.
   */
  chose({ layer, ids, topK, first, decodes }: Chosen, h?: Float32Array): void {
    const { experts, grid, hidden, kind } = this.#options;
    const part = (decodes > 0 ? 0 : 2) + (first > 0 ? 1 : 0); // a step that decodes runs between the layers of a prompt's
    const choice = { layer, ids: ids.slice(), topK, part };
    const layers: number[] = [];
    for (let to = layerBehind(grid, layer); to >= 0 && layers.length < lookahead; to = layerBehind(grid, to)) layers.push(to);
    const count = ids.length / topK;
    const { asks } = kind;
    if (asks === undefined || h === undefined || h.length !== count * hidden || layers.length === 0) this.#name(choice, layers);
    else {
      const rows = someRows(h, { layer, part, count });
      experts.lock
        .run(() => this.#ask(rows, layers, asks))
        .then((ahead) => this.#name({ ...choice, ahead }, layers))
        .catch(() => undefined);
    }
  }

  async #ask(rows: Rows, layers: readonly number[], input: AheadInput): Promise<Ahead> {
    const { hidden, routers } = this.#options;
    const asked = new Map<number, ReturnType<Ahead>>();
    for (const [i, to] of layers.entries()) {
      const router = routers[to];
      if (router === undefined) continue;
      const data = input === "accelerated" ? this.#accelerated(rows, i + 1) : rows.data;
      const { ids } = await router.compiled.run({ [router.input]: { shape: [rows.count, hidden], data } });
      const named = Int32Array.from(ids?.data ?? []);
      asked.set(to, { ids: named, width: named.length / rows.count });
    }
    this.#before[rows.part] = rows;
    return (to) => asked.get(to);
  }

  /** Moved on by so many times what the last layer changed. */
  #accelerated({ layer, part, count, data }: Rows, times: number): Float32Array {
    const before = this.#before[part];
    if (before === undefined || before.count !== count || layerBehind(this.#options.grid, before.layer) !== layer) return data;
    return data.map((value, i) => value + times * (value - (before.data[i] as number)));
  }

  #name(choice: Choice, layers: readonly number[]): void {
    const { experts, grid, kind, serves, tell } = this.#options;
    this.#predictor.observe(choice);
    const most = kind.whole ? grid.experts : choice.ids.length;
    const named = predict(this.#predictor, choice, layers, most)
      .filter(({ layer, expert }) => serves(layer, expert))
      .slice(0, namedMax);
    const lacks = named.some(({ layer, expert }) => !experts.has(layer, expert));
    // What was named before is not to be loaded after its layer.
    if (lacks || this.#named)
      tell({
        cells: Int32Array.from(named, ({ layer, expert }) => layer * grid.experts + expert),
        chances: Float32Array.from(named, ({ score }) => Math.min(1, score)),
      });
    this.#named = lacks;
  }
}

/** Why a predictor that asks routers names little; undefined where they are asked with all rows. `device`: whose memory keeps rows. */
export function whyNotAsked(routers: PrefetchOptions["routers"], device: string | undefined): string | undefined {
  if (device !== undefined) return `rows that stay in the memory of ${device} ask no router`;
  return routers.some((router) => router !== undefined) ? undefined : "this model's routers read more than their rows";
}

/** A copy, since the layer's memory is used again. */
function someRows(h: Float32Array, { layer, part, count: rows }: Omit<Rows, "data">): Rows {
  const count = Math.min(rows, askedRowsMax);
  if (count === rows) return { layer, part, count, data: h.slice() };
  const width = h.length / rows;
  const data = new Float32Array(count * width);
  for (let i = 0; i < count; i++) {
    const row = Math.floor((i * rows) / count);
    data.set(h.subarray(row * width, (row + 1) * width), i * width);
  }
  return { layer, part, count, data };
}
