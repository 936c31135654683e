// Rows that pass layers of which some experts are elsewhere, on a device whose bits are free. A layer is two graphs, one up to its choice
// and one of the experts that are here; rows stay in the device's memory between the two and from layer to layer (../DECISIONS.md 11).
import type { MoeLayer } from "../../kernels/segment.ts";
import type { Chosen, HeldRows, KvCall } from "../backend.ts";
import { checkKv } from "../call-checks.ts";
import { withExperts } from "./chosen-experts.ts";
import type { GgmlDevice } from "./device.ts";
import { buildGraph, type Graph, type GraphBuilder, type Place, type Value } from "./graph.ts";
import { KvGraph, kvKey } from "./kv.ts";
import { expertNodesOf, type Part } from "./layer-parts.ts";
import { zerosFor } from "./matrix-storage.ts";
import { isOutOfMemory, isUnsupported } from "./out-of-memory.ts";
import { sumsOfSquares } from "./program.ts";
import { Recent } from "./recent.ts";
import type { Slab } from "./slab.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

const graphsPerLayer = 16;
/** Beside those of a block or of experts: sums, and copies of what is kept. */
const nodesBeside = 12;

interface Built {
  readonly graph: Graph;
  readonly kv?: KvGraph;
  readonly slab?: Slab;
}

/** Two for what layers make of the rows, in turns, since a block may run twice; the third for what experts are given. */
const placesOfRows = 3;

interface Memory {
  readonly id: number;
  readonly buffer: DeviceBuffer;
  readonly rows: number;
}

type Given = Parameters<HeldRows["choose"]>[2];

export class Holder {
  readonly device: GgmlDevice;
  readonly parts: readonly Part[];
  readonly graphs: Recent<Built>;
  /** Ascending by rows. */
  readonly #free: Memory[] = [];
  /** The slab beside which graphs of a layer and so many rows were not to be had. */
  readonly #refused = new Map<string, Slab | undefined>();
  #count = 0;

  constructor(device: GgmlDevice, parts: readonly Part[]) {
    this.device = device;
    this.parts = parts;
    this.graphs = new Recent(graphsPerLayer * parts.length, ({ graph }) => graph.free());
  }

  holds(layer: number, rows: number): boolean {
    const { moe, choosable, expertSlab } = this.parts[layer] ?? {};
    const { parted } = expertSlab ?? {};
    if (moe === undefined || choosable !== true || parted === undefined) return false;
    const key = `${layer} ${rows}`;
    return !this.#refused.has(key) || this.#refused.get(key) !== parted.slab;
  }

  refuse(layer: number, rows: number): void {
    this.#refused.set(`${layer} ${rows}`, this.parts[layer]?.expertSlab?.parted?.slab);
  }

  hold(rows: number, width: number): HeldRows | undefined {
    try {
      const at = this.#free.findIndex((each) => each.rows >= rows);
      if (at >= 0) return new Rows(this, this.#free.splice(at, 1)[0] as Memory, { rows, width });
      const buffer = this.device.allocate(placesOfRows * this.device.aligned(rows * width * Float32Array.BYTES_PER_ELEMENT));
      this.#free.shift()?.buffer.free();
      return new Rows(this, { id: this.#count++, buffer, rows }, { rows, width });
    } catch (caught) {
      if (isOutOfMemory(caught)) return undefined;
      throw caught;
    }
  }

  give(memory: Memory): void {
    this.#free.push(memory);
    this.#free.sort((a, b) => a.rows - b.rows);
  }
}

class Rows implements HeldRows {
  readonly #holder: Holder;
  readonly #memory: Memory;
  readonly #size: Pick<Place, "rows" | "width">;
  #at: 0 | 1 = 0;
  #last: Graph | undefined;

  constructor(holder: Holder, memory: Memory, size: Pick<Place, "rows" | "width">) {
    this.#holder = holder;
    this.#memory = memory;
    this.#size = size;
  }

  free(): void {
    this.#holder.give(this.#memory);
  }

  choose(layer: number, kv: KvCall, given: Given): Chosen | undefined {
    const { program, expertSlab } = this.#part(layer);
    const { rows } = this.#size;
    checkKv(program.segment, kv, rows);
    try {
      // Both graphs are built before anything leaves the device.
      if (expertSlab?.parted?.slab !== undefined) this.#expertsOf(layer, this.#other);
      return this.#choose(layer, kv, given);
    } catch (caught) {
      if (!isOutOfMemory(caught) && !isUnsupported(caught)) throw caught;
      this.#holder.refuse(layer, rows);
      return undefined;
    }
  }

  #choose(layer: number, kv: KvCall, given: Given): Chosen {
    const { moe } = this.#part(layer);
    const { rows } = this.#size;
    const chosen = { ids: new Int32Array(rows * moe.topK), gates: new Float32Array(rows * moe.topK) };
    const squares = new Float32Array(rows);
    const inputs: Readonly<Record<string, Float32Array | undefined>> = { ...given };
    const run = (clamps: boolean): Graph => {
      const built = this.#take(`${layer} ${Object.keys(given)} ${clamps} ${kvKey(kv)}`, this.#at, () =>
        this.#block(layer, kv, given, clamps),
      );
      built.graph.run((name) => inputs[name] ?? built.kv?.input(kv, name) ?? zerosFor(name));
      built.graph.readAll([...Object.entries(chosen), ["squares", squares]]);
      return built.graph;
    };
    const first = run(false);
    // A second time with clamps, so that what the first one stored is gone.
    this.#last = squares.every(Number.isFinite) ? first : run(true);
    this.#at = this.#other;
    return chosen;
  }

  inputs(from: number, count: number): Float32Array {
    return this.#read("f", from, count);
  }

  add(layer: number, { ids, gates }: Chosen): void {
    const { moe, expertSlab } = this.#part(layer);
    const slotOf = expertSlab?.parted?.slotOf;
    const graph = this.#expertsOf(layer, this.#at);
    const own = withStandIns(ids, moe.topK);
    const inputs = { ids: own.map((expert) => slotOf?.(expert) as number), gates: gates.map((gate, i) => (own[i] === ids[i] ? gate : 0)) };
    graph.run((name) => inputs[name as keyof Chosen]);
    this.#last = graph;
    this.#at = this.#other;
  }

  read(): Float32Array {
    return this.#read("x", 0, this.#size.rows);
  }

  #read(name: string, from: number, count: number): Float32Array {
    const { width } = this.#size;
    const out = new Float32Array(count * width);
    this.#last?.read(name, out, from * width * Float32Array.BYTES_PER_ELEMENT);
    return out;
  }

  /** The graph of the layer's experts for rows in place `at`. */
  #expertsOf(layer: number, at: 0 | 1): Graph {
    const { moe, expertSlab } = this.#part(layer);
    const slab = expertSlab?.parted?.slab;
    const make = () => this.#experts(moe, slab as Slab, at);
    return this.#take(`experts of ${layer}`, at, make, (built) => built.slab === slab).graph;
  }

  #experts(moe: MoeLayer, slab: Slab, at: 0 | 1): Built {
    const { rows } = this.#size;
    const graph = this.#graph(expertNodesOf(moe), (build) => {
      const values = new Map([
        ["h", build.placed(this.#place(at))],
        ["f", build.placed(this.#place(2))],
        ["ids", build.input("ids", "i32", [moe.topK, rows])],
        ["gates", build.input("gates", "f32", [1, moe.topK, rows])],
      ]);
      return { x: build.keep(withExperts(build, { moe, slab, rows }, values), this.#place(at === 0 ? 1 : 0)) };
    });
    return { graph, slab };
  }

  #block(layer: number, call: KvCall, given: Given, clamps: boolean): Built {
    const { program } = this.#part(layer);
    const kv = new KvGraph(call, clamps);
    const graph = this.#graph(program.nodes(kv), (build) => {
      const values = new Map([["x", this.#given(build, given)]]);
      program.lower(build, values, this.#size.rows, kv);
      const [h, f, ids, gates] = ["h", "f", "ids", "gates"].map((name) => values.get(name)) as [Value, Value, Value, Value];
      const found = { ids: build.whole(ids), gates: build.whole(gates), squares: sumsOfSquares(build, h) };
      return { ...found, x: build.keep(h, this.#place(this.#other)), f: build.keep(f, this.#place(2)) };
    });
    return { graph, kv };
  }

  #given(build: GraphBuilder, { x, sums }: Given): Value {
    const { rows, width } = this.#size;
    if (x !== undefined) return build.input("x", "f32", [width, rows]);
    const before = build.placed(this.#place(this.#at));
    if (sums === undefined) return before;
    const added = build.input("sums", "f32", [width, rows]);
    return build.step(build.device.ggml.ggml_add(build.context, before.tensor, added.tensor), [before, added]);
  }

  #take(key: string, at: 0 | 1, make: () => Built, isGood: (built: Built) => boolean = () => true): Built {
    const whole = `${this.#memory.id} ${at} ${this.#size.rows} ${key}`;
    return this.#holder.graphs.take(whole, (built) => built.graph.valid && isGood(built), make);
  }

  #graph(nodes: number, work: (build: GraphBuilder) => Record<string, Value>): Graph {
    return buildGraph(this.#holder.device, nodes + nodesBeside, work, { alone: new Set(["f", "x"]) });
  }

  get #other(): 0 | 1 {
    return this.#at === 0 ? 1 : 0;
  }

  #part(layer: number): Part & { readonly moe: MoeLayer } {
    return this.#holder.parts[layer] as Part & { readonly moe: MoeLayer };
  }

  #place(at: 0 | 1 | 2): Place {
    const { buffer, rows } = this.#memory;
    const bytes = this.#holder.device.aligned(rows * this.#size.width * Float32Array.BYTES_PER_ELEMENT);
    return { handle: buffer.handle, address: buffer.base + BigInt(at * bytes), ...this.#size };
  }
}

/** Replaces experts elsewhere (-1) by another one of their row that is here, if there is any: a row is made no number by itself alone. */
function withStandIns(ids: Int32Array, topK: number): Int32Array {
  const isHere = (expert: number): boolean => expert >= 0;
  const any = ids.find(isHere) as number;
  return ids.map((expert, pair) => {
    if (isHere(expert)) return expert;
    const from = pair - (pair % topK);
    return ids.subarray(from, from + topK).find(isHere) ?? any;
  });
}
