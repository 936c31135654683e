// One pass over the layers for the rows of a step: embed, then per layer attention, router, experts here and elsewhere at
// the same time, combine; last the head for the rows that want logits. Knows no request and no mode.
import type { Phase, StepSeconds } from "../../crds/telemetry.ts";
import type { Compiled, KvCall, Outputs } from "../compute/backend.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import type { Router } from "../placement/dispatch.ts";
import { gatherRows, scatterRows, selectPairs } from "../placement/frames/pairs.ts";
import type { RemoteFrame } from "./api.ts";
import { combine, type Group, groupPairs } from "./core/combine.ts";
import type { ExpertTable } from "./expert-table.ts";
import type { LoadCounter } from "./load-counter.ts";
import type { StepTimes } from "./step-times.ts";
import type { TransitionSampler } from "./transition-sampler.ts";

export interface StepTools {
  readonly program: Pick<ModelProgram, "layers" | "hidden">;
  readonly embed: Compiled;
  readonly blocks: readonly Compiled[];
  readonly head: Compiled;
  readonly experts: ExpertTable;
  readonly counter: LoadCounter;
  readonly transitions: TransitionSampler;
  readonly times: StepTimes;
  readonly router: () => { readonly rank: number; readonly table: Router };
  readonly dispatch: (frame: RemoteFrame) => Promise<Float32Array>;
  /** Called between layers: answers what must not wait for a whole step. */
  readonly betweenLayers: () => void;
}

interface LayerRows {
  readonly layer: number;
  readonly phase: Phase;
  readonly f: Float32Array; // [n, hidden]
  readonly ids: Int32Array; // [n, topK]
  readonly topK: number;
}

/** A token whose way through the layers is followed. */
interface Followed {
  readonly row: number;
  /** Experts it chose in the layer before, if that one has any. */
  chose: Int32Array | undefined;
}

/** Rows of `tokens` after the last layer, [n, hidden]. */
export async function forward(tools: StepTools, tokens: Int32Array, kv: KvCall, phase: Phase): Promise<Float32Array> {
  const { embed, blocks, experts, transitions, times } = tools;
  const { hidden, layers } = tools.program;
  const rows = tokens.length;
  const followed: Followed[] = transitions.choose(rows).map((row) => ({ row, chose: undefined }));
  let x = await experts.lock.run(async () => floats(await embed.run({ ids: { shape: [rows], data: tokens } }), "x"));
  for (const [layer, block] of blocks.entries()) {
    const input = { x: { shape: [rows, hidden], data: x } };
    // Inside of the lock: waiting for it is waiting for experts that others asked of this rank.
    const out = await experts.lock.run(() => timed(times, phase, "dense", () => block.run(input, kv)));
    const shape = layers[layer];
    if (shape?.kind === "moe") {
      const [h, f, gates] = [floats(out, "h").slice(), floats(out, "f"), floats(out, "gates")]; // h is added to while the block's buffer is reused
      const ids = out.ids?.data as Int32Array;
      follow(transitions, followed, { layer, phase, ids, topK: shape.topK });
      const pairs = await timed(times, phase, "experts", () => expertRows(tools, { layer, phase, f, ids, topK: shape.topK }));
      x = combine(h, gates, pairs, hidden);
    } else {
      x = floats(out, "y").slice();
      for (const token of followed) token.chose = undefined;
    }
    tools.betweenLayers();
  }
  return x;
}

/** Counts where followed tokens went from the layer before to this one. */
function follow(transitions: TransitionSampler, followed: readonly Followed[], { layer, phase, ids, topK }: Omit<LayerRows, "f">): void {
  for (const token of followed) {
    const chosen = ids.slice(token.row * topK, (token.row + 1) * topK);
    if (token.chose) transitions.count(phase, layer - 1, token.chose, chosen);
    token.chose = chosen;
  }
}

async function timed<T>(times: StepTimes, phase: Phase, kind: keyof StepSeconds, work: () => Promise<T>): Promise<T> {
  const startedAt = performance.now();
  const result = await work();
  times.add(phase, kind, performance.now() - startedAt);
  return result;
}

/** Logits of chosen rows, [chosen, vocab]. */
export async function logitsOf(tools: StepTools, x: Float32Array, chosen: readonly number[]): Promise<Float32Array> {
  const { hidden } = tools.program;
  const data = gatherRows(x, hidden, chosen);
  return tools.experts.lock.run(async () => floats(await tools.head.run({ x: { shape: [chosen.length, hidden], data } }), "logits"));
}

/** Unweighted expert outputs of every (row, k), [n * topK, hidden]. */
async function expertRows(tools: StepTools, { layer, phase, f, ids, topK }: LayerRows): Promise<Float32Array> {
  const { hidden } = tools.program;
  const { experts, counter } = tools;
  const { rank, table } = tools.router();
  const groups = groupPairs(ids.length, (pair) => {
    const expert = ids[pair] as number;
    counter.routed(phase, layer, expert, 1);
    const host = table.route(layer, expert);
    const here = (host === rank || host < 0) && experts.has(layer, expert);
    return here ? localKey : host;
  });
  const local = groups.find(({ key }) => key === localKey);
  const all = { rows: f, pairRows: rowsOfPairs(ids.length, topK), pairExperts: Uint32Array.from(ids) };
  if (local && groups.length === 1) return experts.run({ layer, phase, ...all });
  const out = new Float32Array(ids.length * hidden);
  const frameOf = ({ pairs }: Group) => ({ layer, phase, ...selectPairs(all, hidden, pairs) });
  const place = ({ pairs }: Group, rows: Float32Array): void => scatterRows(out, hidden, pairs, rows);
  const epoch = table.epochOf(layer);
  const remote = groups
    .filter(({ key }) => key !== localKey)
    .map(async (group) => place(group, await tools.dispatch({ ...frameOf(group), epoch, rank: group.key })));
  const here = local ? experts.run(frameOf(local)).then((rows) => place(local, rows)) : undefined;
  await Promise.all([...remote, here]);
  return out;
}

const floats = (outputs: Outputs, name: string): Float32Array => outputs[name]?.data as Float32Array;

/** Key of the pairs computed here; ranks are >= 0 and -1 stands for an unknown host. */
const localKey = -2;

function rowsOfPairs(pairs: number, topK: number): Uint32Array {
  return Uint32Array.from({ length: pairs }, (_, pair) => Math.floor(pair / topK));
}
