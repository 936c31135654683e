// Passes rows through the layers; experts compute here and elsewhere at the same time.
import type { BufferAllocator, Compiled, KvCall, Outputs } from "../../compute/backend.ts";
import { inPieces, reusedBuffers } from "../../compute/output-buffers.ts";
import { rangeOfGroups } from "../../kernels/kv-groups.ts";
import type { Layer, Tensor } from "../../kernels/segment.ts";
import { widthBehind } from "../../kernels/widths.ts";
import { scatterRows, selectPairs } from "../../placement/frames/pairs.ts";
import { kindOf } from "../schedule/step-plan.ts";
import { combine, type Group, placeSums } from "./combine.ts";
import { HeldLayers } from "./held-layers.ts";
import { passRange } from "./layer-ranges.ts";
import { type ChosenPairs, localKey, type PhaseGroup, routePairs, sendPairs } from "./routed-pairs.ts";
import type { RunProgram } from "./spread-heads.ts";
import { floats, type Part, type Passed, type StepTools, stepMs } from "./step-tools.ts";
import { dropWeakGates } from "./weak-gates.ts";

/** Rows of a piece whose heads are spread: attention takes as many together, and each piece is a message to each rank. */
const spreadRowsLeast = 64;

interface LayerRows extends ChosenPairs {
  readonly h: Float32Array; // [n, width]
  readonly f: Float32Array; // [n, hidden]
  /** [n, topK]; changed for pairs that come as sums. */
  readonly gates: Float32Array;
  readonly allocate: BufferAllocator;
}

/** `rows` lacks those of other ranks until `remote` resolves. */
interface Begun {
  readonly h: Float32Array;
  readonly gates: Float32Array;
  readonly rows: Float32Array;
  readonly remote: Promise<unknown> | undefined;
  readonly sentAt: number;
}

/** Rows after the last layer, [n, hidden]; valid until the next step. */
export async function passLayers(tools: StepTools, part: Part): Promise<Float32Array> {
  const allocators = tools.allocators[part.decodes > 0 ? "decode" : "prefill"];
  const allocate = allocators.pop() ?? reusedBuffers();
  const held = new HeldLayers(tools, part);
  try {
    return await passThrough(tools, part, allocate, held);
  } finally {
    held.free();
    allocators.push(allocate);
  }
}

async function passThrough(tools: StepTools, part: Part, allocate: BufferAllocator, held: HeldLayers): Promise<Float32Array> {
  const { blocks, scheduler } = tools;
  const { tokens, mutex } = part;
  let x: Passed["x"] = tokens;
  const cut = new Pieces(part.kv, tokens.length);
  const ranges = tools.heads === undefined && tools.ranges?.wants() ? tools.ranges : undefined;
  for (let layer = 0; layer < blocks.length; ) {
    const to = ranges?.endOf(tools, part, layer) ?? layer;
    const before = part.before(Math.max(layer, to - 1));
    if (before) await scheduler.waitFor(before);
    const of = { part, layer, cut, allocate: layerBuffers(allocate, layer) };
    const rows = (): Float32Array | Promise<Float32Array> => (x instanceof Int32Array ? embedded(tools, of, x) : x);
    if (to === layer && tools.heads === undefined && (await held.pass(layer, rows))) layer += 1;
    else {
      x = await held.read(x);
      const passing = { part, from: layer, to, x };
      const ranged = to > layer ? await mutex.run(() => passRange(tools, passing)) : passing;
      const passed: Passed = ranged.to > layer ? ranged : await passLayer(tools, of, await rows());
      x = passed.x;
      layer = passed.to;
    }
    tools.passed?.();
    const others = scheduler.betweenGraphs();
    if (others) await others;
  }
  return (await held.read(x)) as Float32Array;
}

const embedded = (tools: StepTools, { part, allocate }: LayerOf, ids: Int32Array): Promise<Float32Array> =>
  part.mutex.run(() =>
    tools.experts.lock.run(async () =>
      floats(await tools.embed.run({ ids: { shape: [ids.length], data: ids } }, undefined, allocate), "x"),
    ),
  );

interface LayerOf {
  readonly part: Part;
  readonly layer: number;
  readonly cut: Pieces;
  readonly allocate: BufferAllocator;
}

/** A layer must not write the rows it reads. */
const layerBuffers =
  (allocate: BufferAllocator, layer: number): BufferAllocator =>
  (output, length) =>
    allocate(`${output}${layer & 1}`, length);

async function passLayer(tools: StepTools, of: LayerOf, x: Float32Array): Promise<Passed> {
  const { mutex, decodes, tokens } = of.part;
  const begun = await mutex.run(() => beginLayer(tools, of, x));
  const to = of.layer + 1;
  if ("y" in begun) return { x: begun.y, to };
  if (begun.remote) await tools.scheduler.waitFor(begun.remote);
  tools.times.add({ rows: tokens.length, decodes }, "experts", stepMs(tools) - begun.sentAt);
  const { layers, hidden } = tools.program;
  const stride = widthBehind(layers[of.layer] as Layer);
  return { x: combine(begun.h, begun.gates, begun.rows, { width: hidden, stride }), to };
}

async function beginLayer(
  tools: StepTools,
  { part, layer, cut, allocate }: LayerOf,
  x: Float32Array,
): Promise<Begun | { y: Float32Array }> {
  const { first, decodes, tokens } = part;
  const pace = tools.scheduler.pieceRows(kindOf(tokens.length, decodes), tokens.length);
  const pieceRows = tools.heads ? Math.max(spreadRowsLeast, pace) : pace;
  const out = await denseRows(tools, { layer, decodes, pieces: cut.of(pieceRows), allocate }, x);
  part.attended(layer);
  const shape = tools.program.layers[layer];
  if (shape?.kind !== "moe") {
    return { y: floats(out, "y") };
  }
  const ids = out.ids?.data as Int32Array;
  const { topK, experts } = shape;
  const sentAt = stepMs(tools);
  const [h, gates] = [floats(out, "h"), floats(out, "gates")];
  const { minGatePercent: percent = 0, program } = tools;
  if (percent > 0) dropWeakGates({ ids, gates, h }, { topK, experts, hidden: program.hidden, percent });
  const rows = await beginExperts(tools, { layer, first, decodes, h, f: floats(out, "f"), gates, ids, topK, experts, allocate });
  return { h, gates, sentAt, ...rows };
}

interface Piece {
  readonly from: number;
  readonly rows: number;
  readonly kv: KvCall;
}

class Pieces {
  readonly #kv: KvCall;
  readonly #rows: number;
  readonly #bySize = new Map<number, readonly Piece[]>();

  constructor(kv: KvCall, rows: number) {
    this.#kv = kv;
    this.#rows = rows;
  }

  of(pieceRows: number): readonly Piece[] {
    const known = this.#bySize.get(pieceRows) ?? this.#cut(pieceRows);
    this.#bySize.set(pieceRows, known);
    return known;
  }

  #cut(pieceRows: number): readonly Piece[] {
    if (pieceRows >= this.#rows) return [{ from: 0, rows: this.#rows, kv: this.#kv }];
    return Array.from({ length: Math.ceil(this.#rows / pieceRows) }, (_, i) => {
      const from = i * pieceRows;
      const rows = Math.min(pieceRows, this.#rows - from);
      return { from, rows, kv: rangeOf(this.#kv, from, rows) };
    });
  }
}

export function rangeOf({ cache, groups }: KvCall, from: number, rows: number): KvCall {
  return { cache, groups: rangeOfGroups(groups, from, rows) };
}

interface DensePart {
  readonly layer: number;
  readonly decodes: number;
  readonly pieces: readonly Piece[];
  readonly allocate: BufferAllocator;
}

/** Copies of the dense part's outputs, which survive its next run. */
async function denseRows(tools: StepTools, { layer, decodes, pieces, allocate }: DensePart, x: Float32Array): Promise<Outputs> {
  const of = pieces.reduce((sum, { rows }) => sum + rows, 0);
  const width = x.length / of;
  const whole: Record<string, Tensor> = {};
  for (const { from, rows, kv } of pieces) {
    const pieceBuffers: BufferAllocator = (output, length) => {
      const own = length / rows;
      return allocate(output, of * own).subarray(from * own, from * own + length);
    };
    const input = { shape: [rows, width], data: x.subarray(from * width, (from + rows) * width) };
    const computed = { layer, kv, rows, decoded: Math.min(rows, Math.max(0, decodes - from)), prompts: decodes === 0 };
    const out = await densePiece(tools, computed, input, pieceBuffers);
    for (const [name, { data }] of Object.entries(out)) {
      const own = data.length / rows;
      whole[name] ??= { shape: [of, own], data: data instanceof Int32Array ? new Int32Array(of * own) : allocate(name, of * own) };
      const inPlace = data.buffer === whole[name].data.buffer;
      if (!inPlace) whole[name].data.set(data, from * own);
    }
    const others = from + rows < of ? tools.scheduler.betweenGraphs() : undefined;
    if (others) await others;
  }
  return whole;
}

interface PieceOf extends Pick<Piece, "rows" | "kv"> {
  readonly layer: number;
  readonly decoded: number;
  /** No row of the step decodes. */
  readonly prompts: boolean;
}

async function densePiece(
  tools: StepTools,
  { layer, kv, rows, decoded, prompts }: PieceOf,
  x: Tensor,
  allocate: BufferAllocator,
): Promise<Outputs> {
  const queue = prompts && tools.scheduler.usesPrefillQueue ? "prefill" : "main";
  // Waiting for the lock serves experts that others requested.
  const lock = queue === "prefill" ? tools.experts.prefillLock : tools.experts.lock;
  let ms = 0;
  const run: RunProgram = (program, inputs, call, own) =>
    lock.run(async () => {
      const startedAt = performance.now();
      const outputs = await program.run(inputs, call, own, queue);
      ms += performance.now() - startedAt;
      return outputs;
    });
  const spread = tools.heads?.(layer, x, { kv, run, allocate });
  const out = await (spread ?? run(tools.blocks[layer] as Compiled, { x }, kv, allocate));
  tools.times.add({ rows, decodes: decoded }, "dense", ms);
  if (decoded < rows) tools.scheduler.took(rows, ms);
  return out;
}

/** Unweighted rows of every (row, k), [n * topK, hidden]: local ones first, the rest with `remote`. */
async function beginExperts(tools: StepTools, of: LayerRows): Promise<Pick<Begun, "rows" | "remote">> {
  const { layer, f, gates, ids, topK, allocate } = of;
  const { hidden } = tools.program;
  const { scheduler } = tools;
  const groups = routePairs(tools, of);
  const all = { rows: f, pairRows: rowsOfPairs(ids.length, topK), pairExperts: Uint32Array.from(ids) };
  // Pairs ascend, so those of one phase are contiguous.
  const partOf = ({ pairs, phase }: PhaseGroup) => {
    const [from, to] = [pairs[0] as number, (pairs.at(-1) as number) + 1];
    return { layer, phase, rows: f, pairRows: all.pairRows.subarray(from, to), pairExperts: all.pairExperts.subarray(from, to) };
  };
  const local = groups.filter(({ key }) => key === localKey);
  scheduler.reached(layer);
  const rowsOfAll = groups.reduce((sum, { pairs }) => sum + pairs.length, 0);
  if (local.length === groups.length && rowsOfAll === ids.length) {
    const rows = allocate("pairs", ids.length * hidden);
    const next = inPieces(rows);
    tools.prefetch?.chose(of, of.h);
    await scheduler.ownExperts(local.map(partOf), (_output, length) => next(length));
    return { rows, remote: undefined };
  }
  const out = new Float32Array(ids.length * hidden);
  const place = ({ pairs }: Group, rows: Float32Array): void => scatterRows(out, hidden, pairs, rows);
  const remote = sendPairs(tools, groups, { layer, gates, all }).map(async ({ frame, answered, ...group }) => {
    const answer = await answered;
    if (answer instanceof Float32Array) place(group, answer);
    else placeSums({ gates, pairs: out }, { at: group.pairs, pairRows: frame.pairRows }, answer.sums, hidden);
  });
  // Frames to others are sent before local work, and what rows wait for is loaded before what they may.
  tools.prefetch?.chose(of, of.h);
  const answered = Promise.all(remote);
  answered.catch(() => {}); // awaited only after the local part
  const frameOf = ({ pairs, phase }: PhaseGroup) => ({ layer, phase, ...selectPairs(all, hidden, pairs) });
  if (local.length > 0) for (const [i, rows] of (await scheduler.ownExperts(local.map(frameOf))).entries()) place(local[i] as Group, rows);
  return { rows: out, remote: answered };
}

function rowsOfPairs(pairs: number, topK: number): Uint32Array {
  return Uint32Array.from({ length: pairs }, (_, pair) => Math.floor(pair / topK));
}
