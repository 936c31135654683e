// Runs several layers at once where all their experts are here and rows are few.
import type { Backend, Compiled, LayerRange } from "../../compute/backend.ts";
import type { Layer, ModelProgram } from "../../kernels/segment.ts";
import { noRank } from "../../placement/dispatch.ts";
import { kindOf } from "../schedule/step-plan.ts";
import type { ExpertTable } from "./expert-table.ts";
import { type LayersAtOnce, type Part, type Passed, phaseOf, type StepTools } from "./step-tools.ts";

/** ../DECISIONS.md 8 */
const measuredEvery = 128;

interface LayerParts {
  readonly backend: Pick<Backend, "createRange">;
  readonly program: Pick<ModelProgram, "layers">;
  readonly embed: Compiled;
  readonly blocks: readonly Compiled[];
  readonly head: Compiled;
}

export function rangesOf({ backend, program, embed, blocks, head }: LayerParts, experts: ExpertTable): Ranges {
  const layers = program.layers.map((layer, i) => {
    const [block, expertSlab] = [blocks[i] as Compiled, experts.expertSlab(i)];
    return expertSlab === undefined ? { layer, block } : { layer, block, expertSlab };
  });
  return new Ranges(backend.createRange(layers, { embed, head }), program.layers);
}

type Routing = ReturnType<StepTools["router"]>;

/** True for layers whose rows stay on this rank by routing. */
function staysHere({ rank, table }: Routing, layers: readonly Layer[], layer: number): boolean {
  const sole = layers[layer]?.kind === "moe" ? table.soleRank(layer) : rank;
  return sole === rank || sole === noRank;
}

/** True while some layer's rows go to other ranks. */
export const rowsTravel = (routing: Routing, layers: readonly Layer[]): boolean =>
  layers.some((_, layer) => !staysHere(routing, layers, layer));

export class Ranges implements LayersAtOnce {
  readonly range: LayerRange;
  readonly #layers: readonly Layer[];
  readonly #measures: boolean;
  #steps = 0;

  constructor(range: LayerRange, layers: readonly Layer[]) {
    this.range = range;
    this.#layers = layers;
    this.#measures = layers.some(({ kind }) => kind === "moe");
  }

  wants(): boolean {
    return !this.#measures || this.#steps++ % measuredEvery !== 0;
  }

  endOf({ router, scheduler }: StepTools, { decodes, tokens }: Part, from: number): number {
    const routing = router();
    const most = scheduler.layersAtOnce(kindOf(tokens.length, decodes), tokens.length);
    const isHere = (layer: number): boolean => staysHere(routing, this.#layers, layer) && this.range.covers(layer);
    let to = from;
    while (to < this.#layers.length && to - from < most && isHere(to)) to += 1;
    return to;
  }
}

interface Passing {
  readonly part: Part;
  readonly from: number;
  readonly to: number;
  readonly x: Passed["x"];
}

/** Returns the rows after those layers, or after fewer if an expert left meanwhile. */
export async function passRange(tools: StepTools, { part, from, to: wished, x }: Passing): Promise<Passed> {
  const { experts, times, scheduler, ranges, program } = tools;
  const { decodes, kv, tokens } = part;
  return experts.lock.run(async () => {
    const to = Math.min(wished, ranges?.endOf(tools, part, from) ?? from);
    if (ranges === undefined || to === from) return { x, to: from };
    const startedAt = performance.now();
    const head = from === 0 && to === program.layers.length ? part.head : undefined;
    const out = await ranges.range.run({ x, kv, from, to, head });
    const took = performance.now() - startedAt;
    const ms = took - Math.min(head?.ms ?? 0, took / 2);
    times.addBoth({ rows: tokens.length, decodes }, ms);
    scheduler.tookLayers(to - from, tokens.length, ms);
    scheduler.reached(to - 1);
    for (const [i, ids] of out.ids.entries()) {
      const layer = from + i;
      part.attended(layer);
      const shape = program.layers[layer];
      const topK = shape?.kind === "moe" ? shape.topK : 1;
      tools.counter.ran(layer, new Set(ids));
      for (const [pair, expert] of ids.entries()) {
        const phase = phaseOf(Math.floor(pair / topK), decodes);
        tools.counter.routed(phase, layer, expert, 1);
        tools.counter.served(phase, [layer, expert], 1);
        tools.chose?.(part.first + Math.floor(pair / topK), layer, expert);
      }
      if (shape?.kind === "moe") tools.prefetch?.chose({ layer, ids, topK, first: part.first, decodes });
    }
    head?.take(out);
    return { x: out.x, to };
  });
}
