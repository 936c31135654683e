// Layers whose rows are sorted by expert: per layer, one graph up to the choice of experts and one of the experts. Rows stay in the
// backend's memory in between.
import { rowsOfGroups } from "../../kernels/kv-groups.ts";
import type { MoeLayer } from "../../kernels/segment.ts";
import type { RangeCall, RangeOutputs } from "../backend.ts";
import type { GgmlDevice } from "./device.ts";
import { type ExpertShape, endsOf, inGraphs, paddedRows, totalOf } from "./expert-graphs.ts";
import { buildGraph, type Graph, type GraphBuilder, type Place, type Value } from "./graph.ts";
import { KvGraph, kvKey } from "./kv.ts";
import { nodesOf, type Part } from "./layer-parts.ts";
import { zerosFor } from "./matrix-storage.ts";
import { Recent } from "./recent.ts";
import { sortPairs } from "./sorted-pairs.ts";
import { fillingMax } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

const passesMax = 8;
/** The sum of the last experts has so many nodes in all, and per expert of a row. */
const sumNodes = { all: 16, perExpert: 6 } as const;
const wordBytes = 4;

type SortedCall = RangeCall & { readonly x: Float32Array };

interface Built {
  readonly graph: Graph;
  readonly kv: KvGraph;
}

/** The blocks of layers `from` to `to` - 1, the last of which may choose experts, behind the experts of an earlier layer. */
interface Stage {
  readonly behind: { readonly moe: MoeLayer; readonly layer: number; readonly places: Int32Array } | undefined;
  readonly from: number;
  readonly to: number;
  readonly call: SortedCall;
  readonly kvKey: string;
  readonly rows: number;
}

export class SortedRange {
  readonly #device: GgmlDevice;
  readonly #parts: readonly Part[];
  readonly #graphs: Recent<Built>;
  #buffer: DeviceBuffer | undefined;

  constructor(device: GgmlDevice, parts: readonly Part[]) {
    this.#device = device;
    this.#parts = parts;
    this.#graphs = new Recent(passesMax * (parts.length + 1), ({ graph }) => graph.free());
  }

  run(call: SortedCall): RangeOutputs {
    const rows = rowsOfGroups(call.kv.groups);
    this.#reserve(rows);
    const shared = { call, rows, kvKey: kvKey(call.kv) };
    const ids: Int32Array[] = [];
    let behind: Stage["behind"];
    for (let from = call.from; ; ) {
      let to = from;
      while (to < call.to && this.#parts[to]?.moe === undefined) to += 1;
      const moe = to < call.to ? this.#parts[to]?.moe : undefined;
      const graph = this.#runStage({ behind, from, to: moe === undefined ? to : to + 1, ...shared });
      while (call.from + ids.length < to) ids.push(new Int32Array(0));
      if (moe === undefined) {
        const x = new Float32Array(call.x.length);
        graph.read("x", x);
        return { x, ids };
      }
      const chosen = new Int32Array(rows * moe.topK);
      graph.read("ids", chosen);
      ids.push(chosen);
      behind = { moe, layer: to, places: this.#runExperts(to, moe, chosen) };
      from = to + 1;
    }
  }

  #runStage(stage: Stage): Graph {
    const { behind, from, to, call } = stage;
    const { graph, kv } = this.#graphs.take(
      `${this.#base} ${behind?.layer} ${from}-${to} ${stage.kvKey}`,
      (built) => built.graph.valid,
      () => this.#build(stage),
    );
    const own: Readonly<Record<string, NodeJS.TypedArray | undefined>> = { x: call.x, places: behind?.places };
    graph.run((name) => own[name] ?? kv.input(call.kv, name) ?? zerosFor(name));
    return graph;
  }

  #build({ behind, from, to, call, rows }: Stage): Built {
    const kv = new KvGraph(call.kv);
    const blocks = this.#parts.slice(from, to);
    const nodes = blocks.reduce((sum, part) => sum + nodesOf(part, kv), sumNodes.all + sumNodes.perExpert * (behind?.moe.topK ?? 0));
    const graph = buildGraph(this.#device, nodes, (build) => {
      let x = behind === undefined ? build.input("x", "f32", [call.x.length / rows, rows]) : this.#sum(build, behind.moe, rows);
      for (const { program, moe } of blocks) {
        const values = new Map([["x", x]]);
        program.lower(build, values, rows, kv);
        if (moe === undefined) {
          x = values.get("y") as Value;
          continue;
        }
        const kept = this.#kept(moe, rows);
        for (const name of ["h", "f", "gates"] as const) build.keep(values.get(name) as Value, kept[name]);
        return { ids: values.get("ids") as Value };
      }
      return { x };
    });
    return { graph, kv };
  }

  /** h + the sum over k of gates[k] * y[k] in gate order, each product and sum rounded to f32. */
  #sum(build: GraphBuilder, { topK, ...moe }: MoeLayer, rows: number): Value {
    const { ggml } = build.device;
    const kept = this.#kept({ topK, ...moe }, rows);
    const [y, gates, places] = [build.placed(kept.y), build.placed(kept.gates), build.input("places", "i32", [rows, topK])];
    let sum = build.placed(kept.h);
    for (let k = 0; k < topK; k++) {
      const own = build.view(ggml.ggml_view_2d(build.context, places.tensor, rows, 1, rows * wordBytes, k * rows * wordBytes), places);
      const gate = build.view(ggml.ggml_view_2d(build.context, gates.tensor, 1, rows, topK * wordBytes, k * wordBytes), gates);
      const one = build.step(ggml.ggml_get_rows(build.context, y.tensor, own.tensor), [y, own]);
      const weighted = build.step(ggml.ggml_mul(build.context, one.tensor, gate.tensor), [one, gate]);
      sum = build.step(ggml.ggml_add(build.context, sum.tensor, weighted.tensor), [sum, weighted]);
    }
    return sum;
  }

  /** Computes the chosen experts and returns where the rows of each (row, k) lie. */
  #runExperts(layer: number, moe: MoeLayer, ids: Int32Array): Int32Array {
    const { slabs, graphs } = this.#parts[layer]?.expertSlab?.sorted ?? missing(layer);
    const forms = [...slabs];
    const formOf = Uint8Array.from({ length: moe.experts }, (_, expert) => forms.findIndex(([, slab]) => slab.isTaken(expert)));
    const formIn = (expert: number): number => formOf[expert] as number;
    const shapeOf = (expert: number): ExpertShape => (forms[formIn(expert)] as (typeof forms)[number])[0];
    const { groups, rows, places } = sortPairs(ids, moe, { sizeOf: (count, expert) => paddedRows(shapeOf(expert), count), formIn });
    const kept = this.#kept(moe, ids.length / moe.topK);
    const parts = forms.flatMap(([shape, slab], form) => {
      const own = groups.filter(({ expert }) => formIn(expert) === form);
      const experts = own.map((group) => ({ rows: group.rows, addresses: slab.addresses(group.expert) }));
      return inGraphs(shape, experts).map((part) => ({ shape, part }));
    });
    let from = 0;
    for (const { shape, part } of parts) {
      const total = totalOf(part);
      const own = rows.subarray(from, from + total);
      const width = kept.y.width;
      const y = { ...kept.y, address: kept.y.address + BigInt(from * width * Float32Array.BYTES_PER_ELEMENT), rows: total };
      const ends = {
        key: `${y.address} ${kept.f.address} ${kept.f.rows}`,
        begin: (build: GraphBuilder): Value => {
          const rowOf = build.input("rows", "i32", [total]);
          const f = build.placed(kept.f);
          return build.step(build.device.ggml.ggml_get_rows(build.context, f.tensor, rowOf.tensor), [f, rowOf]);
        },
        end: (build: GraphBuilder, value: Value) => {
          build.keep(value, y);
          return {};
        },
      };
      graphs.of(shape, part, ends).run((name) => (name === "rows" ? own : zerosFor(name)));
      from += total;
    }
    return places;
  }

  get #base(): bigint {
    return (this.#buffer as DeviceBuffer).base;
  }

  /** Where the values of a layer lie that has chosen its experts; `y` are rows of experts, as they are sorted. */
  #kept(moe: MoeLayer, rows: number): Readonly<Record<"h" | "f" | "gates" | "y", Place>> {
    let address = this.#base;
    const { handle } = this.#buffer as DeviceBuffer;
    const places = sizesOf(moe, rows).map(([name, width, count]) => {
      const place = { handle, address, width, rows: count };
      address += BigInt(bytesOf(this.#device, width, count));
      return [name, place] as const;
    });
    return Object.fromEntries(places) as unknown as Readonly<Record<"h" | "f" | "gates" | "y", Place>>;
  }

  #reserve(rows: number): void {
    const bytes = Math.max(...this.#parts.map(({ moe }) => (moe === undefined ? 0 : sortedBytes(this.#device, moe, rows))));
    if (bytes <= (this.#buffer?.bytes ?? -1)) return;
    this.#buffer?.free();
    this.#buffer = this.#device.allocate(bytes);
  }
}

type Sized = Pick<MoeLayer, "topK" | "experts" | "expert">;

function sizesOf({ topK, experts, expert }: Sized, rows: number): readonly (readonly ["h" | "f" | "gates" | "y", number, number])[] {
  const [{ width: into }, { width: out }] = endsOf(expert);
  const pairs = topK * rows;
  return [
    ["h", out, rows],
    ["f", into, rows],
    ["gates", topK, rows],
    ["y", out, pairs + fillingMax * Math.min(experts, pairs)],
  ];
}

type Aligned = Pick<GgmlDevice, "aligned">;

const bytesOf = (device: Aligned, width: number, rows: number): number => device.aligned(width * rows * Float32Array.BYTES_PER_ELEMENT);

/** What is kept between the two graphs of a layer. */
export const sortedBytes = (device: Aligned, moe: Sized, rows: number): number =>
  sizesOf(moe, rows).reduce((sum, [, width, count]) => sum + bytesOf(device, width, count), 0);

function missing(layer: number): never {
  throw new TypeError(`experts of layer ${layer} are missing`);
}
