// One pass over the layers for the rows of a step: embed, then per layer attention, router, experts here and elsewhere at
// the same time, combine; last the head for the rows that want logits. Knows no request and no mode.
import type { Phase, StepSeconds } from "../../crds/telemetry.ts";
import type { Compiled, KvCall, Outputs } from "../backends/backend.ts";
import type { ModelProgram, Tensor } from "../kernels/segment.ts";
import type { Router } from "../placement/dispatch.ts";
import { gatherRows, scatterRows, selectPairs } from "../placement/frames/pairs.ts";
import type { RemoteFrame } from "./api.ts";
import { combine, type Group, groupPairs } from "./core/combine.ts";
import type { ExpertTable } from "./expert-table.ts";
import type { LoadCounter } from "./load-counter.ts";
import type { StepTimes } from "./step-times.ts";
import type { TransitionSampler } from "./transition-sampler.ts";
import type { Turns } from "./turns.ts";

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
  readonly turns: Turns;
  /** A prefill's rows have the same bits in pieces. */
  readonly piecesEqualWhole: boolean;
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
  const { embed, blocks, experts, transitions, times, turns } = tools;
  const { hidden, layers } = tools.program;
  const rows = tokens.length;
  const followed: Followed[] = transitions.choose(rows).map((row) => ({ row, chose: undefined }));
  let x = await experts.lock.run(async () => floats(await embed.run({ ids: { shape: [rows], data: tokens } }), "x"));
  const pieces = new Map<number, readonly Piece[]>();
  for (const [layer, block] of blocks.entries()) {
    const pieceRows = tools.piecesEqualWhole ? turns.pieceRows(phase, rows) : rows;
    const cut = pieces.get(pieceRows) ?? piecesOf(kv, rows, pieceRows);
    pieces.set(pieceRows, cut);
    const out = await denseRows(tools, { block, phase, pieces: cut }, x);
    const shape = layers[layer];
    if (shape?.kind === "moe") {
      const [h, f, gates] = [floats(out, "h"), floats(out, "f"), floats(out, "gates")];
      const ids = out.ids?.data as Int32Array;
      follow(transitions, followed, { layer, phase, ids, topK: shape.topK });
      const pairs = await timed(times, phase, "experts", () => expertRows(tools, { layer, phase, f, ids, topK: shape.topK }));
      x = combine(h, gates, pairs, hidden);
    } else {
      x = floats(out, "y");
      for (const token of followed) token.chose = undefined;
    }
    const others = turns.betweenGraphs();
    if (others) await others;
  }
  return x;
}

/** Rows of a step that go through a layer's dense part together. */
interface Piece {
  readonly from: number;
  readonly rows: number;
  readonly kv: KvCall;
}

/** A prefill of one prompt in pieces of so many rows; anything else in one. */
function piecesOf(kv: KvCall, rows: number, pieceRows: number): readonly Piece[] {
  if (pieceRows >= rows || kv.batch !== 1) return [{ from: 0, rows, kv }];
  const past = kv.past[0] as number;
  return Array.from({ length: Math.ceil(rows / pieceRows) }, (_, i) => {
    const from = i * pieceRows;
    const count = Math.min(pieceRows, rows - from);
    return { from, rows: count, kv: { ...kv, tokens: count, past: Int32Array.of(past + from) } };
  });
}

interface DensePart {
  readonly block: Compiled;
  readonly phase: Phase;
  readonly pieces: readonly Piece[];
}

/** The outputs of a layer's dense part, which stay as they are when it runs again. */
async function denseRows(tools: StepTools, { block, phase, pieces }: DensePart, x: Float32Array): Promise<Outputs> {
  const { hidden } = tools.program;
  const whole: Record<string, Tensor> = {};
  for (const { from, rows, kv } of pieces) {
    const input = { x: { shape: [rows, hidden], data: x.subarray(from * hidden, (from + rows) * hidden) } };
    const startedAt = performance.now();
    // Inside of the lock: waiting for it is waiting for experts that others asked of this rank.
    const out = await tools.experts.lock.run(() => timed(tools.times, phase, "dense", () => block.run(input, kv)));
    if (phase === "prefill") tools.turns.took(rows, performance.now() - startedAt);
    const of = x.length / hidden;
    for (const [name, { data }] of Object.entries(out)) {
      const width = data.length / rows;
      whole[name] ??= { shape: [of, width], data: data instanceof Int32Array ? new Int32Array(of * width) : new Float32Array(of * width) };
      whole[name].data.set(data, from * width);
    }
    const others = from + rows < of ? tools.turns.betweenGraphs() : undefined;
    if (others) await others;
  }
  return whole;
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
  const { experts, counter, turns } = tools;
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
  if (local && groups.length === 1) return turns.ownExperts({ layer, phase, ...all });
  const out = new Float32Array(ids.length * hidden);
  const frameOf = ({ pairs }: Group) => ({ layer, phase, ...selectPairs(all, hidden, pairs) });
  const place = ({ pairs }: Group, rows: Float32Array): void => scatterRows(out, hidden, pairs, rows);
  const epoch = table.epochOf(layer);
  const remote = groups
    .filter(({ key }) => key !== localKey)
    .map(async (group) => place(group, await tools.dispatch({ ...frameOf(group), epoch, rank: group.key })));
  // What others compute has been sent by now, and travels while this rank computes.
  const here = async (): Promise<void> => {
    if (local) place(local, await turns.ownExperts(frameOf(local)));
    turns.waits();
  };
  await Promise.all([...remote, here()]);
  return out;
}

const floats = (outputs: Outputs, name: string): Float32Array => outputs[name]?.data as Float32Array;

/** Key of the pairs computed here; ranks are >= 0 and -1 stands for an unknown host. */
const localKey = -2;

function rowsOfPairs(pairs: number, topK: number): Uint32Array {
  return Uint32Array.from({ length: pairs }, (_, pair) => Math.floor(pair / topK));
}
