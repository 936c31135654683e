// Consecutive layers at once. Where few rows choose, they are one graph: attention, gate, chosen experts and their sum per layer.
import { rowsOfGroups } from "../../kernels/kv-groups.ts";
import type { Segment } from "../../kernels/segment.ts";
import { isPlain } from "../../kernels/widths.ts";
import type { HeldRows, KvCall, LayerRange, RangeCall, RangeEnds, RangeLayer, RangeOutputs } from "../backend.ts";
import { checkKv } from "../call-checks.ts";
import { reusedBuffers } from "../output-buffers.ts";
import { withEnds } from "../range-ends.ts";
import { withExperts } from "./chosen-experts.ts";
import type { GgmlDevice } from "./device.ts";
import { buildGraph, type Graph, type GraphBuilder, type Value } from "./graph.ts";
import { Holder } from "./held-rows.ts";
import { KvGraph, kvKey } from "./kv.ts";
import { nodesOf, type Part, type SlabHolder } from "./layer-parts.ts";
import { zerosFor } from "./matrix-storage.ts";
import { forTrialCalls } from "./open-checks.ts";
import { isOutOfMemory, isUnsupported } from "./out-of-memory.ts";
import { type DenseProgram, sumsOfSquares } from "./program.ts";
import { Recent } from "./recent.ts";
import type { Slab } from "./slab.ts";
import { SortedRange } from "./sorted-range.ts";

const passesMax = 8;
/** The average of rows per expert up to which row-wise choice is faster on the processor than one product per expert. */
const cpuPairsMax = 4;

interface Built {
  readonly graph: Graph;
  readonly kv: KvGraph;
  readonly slabs: readonly (Slab | undefined)[];
  readonly ids: readonly Ids[];
}

/** Where the ids of a layer are: the graph's output, and their first row in it. */
interface Ids {
  readonly output: string;
  readonly at: number;
  readonly topK: number;
}

export class GgmlRange implements LayerRange {
  readonly #choosingRowsMax: number;
  readonly #sorted: SortedRange;
  readonly #holder: Holder | undefined;
  readonly #device: GgmlDevice;
  readonly #rowsMax: number | undefined;
  readonly #parts: readonly Part[];
  readonly #ends: RangeEnds;
  readonly #kept = reusedBuffers();
  readonly #graphs: Recent<Built>;
  readonly #tried = new Map<number, boolean>();
  /** The slab of a layer beside which memory was too small for the test. */
  readonly #full = new Map<number, Slab | undefined>();

  /** `rowsMax`: as in BackendOptions. */
  constructor(
    device: GgmlDevice,
    layers: readonly RangeLayer[],
    { ends = {}, rowsMax }: { readonly ends?: RangeEnds | undefined; readonly rowsMax?: number | undefined } = {},
  ) {
    this.#device = device;
    this.#rowsMax = rowsMax;
    this.#ends = ends;
    this.#graphs = new Recent(
      passesMax * layers.length,
      ({ graph }) => graph.free(),
      ({ slabs }) => slabs.length,
    );
    this.#choosingRowsMax = device.exact ? cpuRowsMax(layers) : Number.POSITIVE_INFINITY;
    this.#parts = layers.map(({ layer, block, expertSlab }) => {
      const program = block as DenseProgram;
      return {
        program,
        moe: layer.kind === "moe" ? layer : undefined,
        expertSlab: expertSlab as SlabHolder | undefined,
        choosable: !program.isStreamed && isPlain(layer) && (layer.kind !== "moe" || multipliesAtOnce(layer.expert)),
      };
    });
    this.#sorted = new SortedRange(device, this.#parts);
    this.#holder = device.exact ? undefined : new Holder(device, this.#parts);
  }

  holds(layer: number, rows: number): boolean {
    const refused = this.#tried.get(layer) === false || this.#isFull(layer);
    return !refused && (this.#holder?.holds(layer, rows) ?? false);
  }

  hold(rows: number, width: number): HeldRows | undefined {
    return this.#holder?.hold(rows, width);
  }

  covers(layer: number): boolean {
    const part = this.#parts[layer];
    if (part === undefined) return false;
    if (!part.choosable || part.moe === undefined) return part.choosable && (this.#device.exact || this.#computes(layer, part));
    if (this.#device.exact) return part.expertSlab?.sorted !== undefined;
    return part.expertSlab?.whole !== undefined && this.#computes(layer, part);
  }

  #computes(layer: number, part: Part): boolean {
    const known = this.#tried.get(layer);
    if (known !== undefined) return known;
    if (this.#isFull(layer)) return false;
    let computes = true;
    try {
      const build = (_rows: number, kv: KvCall | undefined): void => this.#build([part], { x: noRows, kv: kv as KvCall }).graph.free();
      forTrialCalls(this.#device, part.program.segment, build, { rowsMax: this.#rowsMax });
    } catch (caught) {
      if (isOutOfMemory(caught)) {
        this.#full.set(layer, part.expertSlab?.whole);
        return false;
      }
      if (!isUnsupported(caught)) throw caught;
      computes = false;
    }
    this.#full.delete(layer);
    this.#tried.set(layer, computes);
    return computes;
  }

  #isFull(layer: number): boolean {
    return this.#full.has(layer) && this.#full.get(layer) === this.#parts[layer]?.expertSlab?.whole;
  }

  async run(call: RangeCall): Promise<RangeOutputs> {
    const { x, kv, from, to, head } = call;
    const rows = rowsOfGroups(kv.groups);
    const parts = this.#parts.slice(from, to);
    checkKv((parts[0] as Part).program.segment, kv, rows); // all layers have the same rows and cache
    const choosable = parts.every(({ moe, expertSlab }) => moe === undefined || expertSlab?.whole?.choosable === true);
    if (!choosable || rows > this.#choosingRowsMax) return withEnds(this.#ends, call, (x) => this.#sorted.run({ ...call, x }));
    if (x instanceof Int32Array) this.#embed.checkIds({ ids: { shape: [rows], data: x } });
    const ends = `${x instanceof Int32Array}.${head?.rows.length ?? 0}.${isAll(head?.rows ?? [], rows)}`;
    const built = (clamps: boolean): Built =>
      this.#graphs.take(
        `${from}.${to}.${ends}.${clamps}.${kvKey(kv)}`,
        (built) => built.graph.valid && built.slabs.every((slab, i) => slab === parts[i]?.expertSlab?.whole),
        () => this.#build(parts, call, clamps),
      );
    const { exact } = this.#device;
    const out = this.#compute(built(exact), call, exact || head === undefined);
    if (exact || out.sums.every(Number.isFinite)) return out;
    // A second time with clamps, so that what the first one stored is gone.
    return this.#compute(built(true), call, true);
  }

  #compute({ graph, kv: own, ids: places }: Built, { x, kv, from, head }: RangeCall, readsX: boolean) {
    const rows = rowsOfGroups(kv.groups);
    const wanted = head && head.rows.length > 0 ? head : undefined;
    const given: Inputs = wanted === undefined ? { x } : { x, wanted: Int32Array.from(wanted.rows), sharpness: wanted.sharpness };
    graph.run((name) => given[name] ?? own.input(kv, name) ?? zerosFor(name));
    const width = this.#parts[from]?.program.segment.inputs[0]?.width ?? 0;
    const [out, sums] = [new Float32Array(readsX ? rows * width : 0), new Float32Array(this.#device.exact ? 0 : rows)];
    const outputs = wanted && this.#head.memoryOf(wanted.rows.length, this.#kept);
    const found = new Map<string, Int32Array>();
    for (const { output } of places) {
      if (output === "" || found.has(output)) continue;
      const ends = places.map((each) => (each.output === output ? (each.at + rows) * each.topK : 0));
      found.set(output, new Int32Array(Math.max(...ends)));
    }
    const ofHead = Object.entries(outputs ?? {}).map(([name, { data }]) => [name, data] as const);
    const ofRows = [["sums", sums] as const, ["x", out] as const].filter(([, { length }]) => length > 0);
    graph.readAll([...found, ...ofHead, ...ofRows]);
    const ids = places.map(({ output, at, topK }) => (found.get(output) ?? none).subarray(at * topK, (at + rows) * topK));
    return { x: out, ids, sums, ...(wanted && outputs && { head: { outputs, keptRow: this.#head.keptRows(graph, wanted.rows.length) } }) };
  }

  get #embed(): DenseProgram {
    return this.#ends.embed as DenseProgram;
  }

  get #head(): DenseProgram {
    return this.#ends.head as DenseProgram;
  }

  #build(parts: readonly Part[], { x: given, head, ...call }: Pick<RangeCall, "x" | "kv" | "head">, clamps = this.#device.exact): Built {
    const kv = new KvGraph(call.kv, clamps);
    const rows = rowsOfGroups(call.kv.groups);
    const embed = given instanceof Int32Array ? this.#embed : undefined;
    const wanted = head?.rows ?? [];
    const last = wanted.length > 0 ? this.#head : undefined;
    const slabs = parts.map(({ expertSlab }) => expertSlab?.whole);
    const ids: Ids[] = [];
    const graph = buildGraph(
      this.#device,
      parts.reduce((sum, part) => sum + nodesOf(part, kv), 3 + (embed?.nodes(undefined) ?? 0) + (last?.nodes(undefined) ?? 0)),
      (build) => {
        const outputs: Record<string, Value> = {};
        const stacks = new Map<string, { readonly width: number; readonly topK: number }>();
        const [first] = parts as [Part];
        const { width = 0 } = first.program.segment.inputs[0] ?? {};
        let x = embed
          ? (embed.lowerWhole(build, { ids: build.input("x", "i32", [rows]) }, rows).x as Value)
          : build.input("x", "f32", [width, rows]);
        for (const [i, { program, moe }] of parts.entries()) {
          const values = new Map([["x", x]]);
          program.lower(build, values, rows, kv);
          if (moe === undefined) {
            x = values.get("y") as Value;
            ids.push({ output: "", at: 0, topK: 0 });
            continue;
          }
          const { topK } = moe;
          x = withExperts(build, { moe, slab: slabs[i] as Slab, rows }, values);
          const chosen = values.get("ids") as Value;
          const output = chosen.stacked === undefined ? `ids.${i}` : `ids of ${chosen.stacked.width}, ${topK}`;
          ids.push({ output, at: chosen.stacked?.at ?? 0, topK });
          if (chosen.stacked === undefined) outputs[output] = chosen;
          else stacks.set(output, { width: chosen.stacked.width, topK });
        }
        for (const [output, { width, topK }] of stacks) outputs[output] = build.stack(width, topK);
        Object.assign(outputs, last?.lowerWhole(build, { x: isAll(wanted, rows) ? x : rowsAt(build, x, wanted.length) }, wanted.length));
        if (!build.device.exact) outputs.sums = sumsOfSquares(build, x);
        return Object.assign(outputs, { x });
      },
      last && { alone: last.keptOutputs },
    );
    return { graph, kv, slabs, ids };
  }
}

type Inputs = Readonly<Record<string, Float32Array | Int32Array | undefined>>;

const noRows = new Float32Array();

const isAll = (wanted: readonly number[], rows: number): boolean => wanted.length === rows && wanted.every((row, i) => row === i);

function rowsAt(build: GraphBuilder, x: Value, count: number): Value {
  const at = build.input("wanted", "i32", [count]);
  return build.step(build.device.ggml.ggml_get_rows(build.context, x.tensor, at.tensor), [x, at]);
}

function cpuRowsMax(layers: readonly RangeLayer[]): number {
  const perRow = layers.map(({ layer }) => (layer.kind === "moe" ? layer.topK / layer.experts : 0));
  return Math.floor(cpuPairsMax / Math.max(...perRow));
}

const none = new Int32Array();

/** True where an expert's input is used in products only. */
const multipliesAtOnce = ({ ops, inputs }: Segment): boolean =>
  ops.every((op) => op.op === "matMul" || !Object.values(op).includes(inputs[0]?.name as never));
