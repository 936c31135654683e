// Builds a graph: nodes in execution order, placed in scratch memory.
import type { ComputeQueue } from "../backend.ts";
import { planArena } from "./arena.ts";
import type { GgmlDevice, Metadata } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphCost } from "./threads.ts";
import { numberOf } from "./types.ts";

/** A tensor and its memory: that of a node of this graph, or foreign memory (weights, KV). */
export interface Value {
  readonly tensor: Pointer;
  readonly owner: number | undefined;
  /** Set for a column range of the rows of `whole` [width, rows]. */
  readonly part?: { readonly whole: Value; readonly from: number; readonly width: number };
  /** Its rows are the first columns of wider ones; `whole` makes them one piece. */
  readonly apart?: boolean;
  /** The first of its rows within the stack of rows of that width. */
  readonly stacked?: { readonly width: number; readonly at: number };
  /** They are of a norm. */
  readonly normed?: boolean;
  /** The same values as [head, heads, rows], without a view between. */
  readonly heads?: Value;
}

/** Memory of f32 values [width, rows] outside of the scratch. */
export interface Place {
  readonly handle: Pointer;
  readonly address: Pointer;
  readonly width: number;
  readonly rows: number;
}

interface Owned {
  readonly tensor: Pointer;
  bytes: number;
  place?: Place;
  readonly from: number;
  to: number;
}

/** A device may compute so many steps as one kernel, which reads what the first one reads and writes what the last one writes. */
const fusedMost = 12;

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

type InputType = "f32" | "f16" | "i32" | "i64";

export class GraphBuilder {
  readonly device: GgmlDevice;
  readonly metadata: Metadata;
  readonly context: Pointer;
  readonly #graph: Pointer;
  readonly #queue: ComputeQueue;
  readonly #owned: Owned[] = [];
  readonly #views: Pointer[] = [];
  readonly #inBlocks: { readonly tensor: Pointer; readonly owner: number; readonly offset: number }[] = [];
  readonly #inputs = new Map<string, Value>();
  readonly #stacks = new Map<number, { readonly owner: number; rows: number }>();
  #step = 0;

  constructor(device: GgmlDevice, nodes: number, queue: ComputeQueue = "main") {
    this.device = device;
    this.#queue = queue;
    this.metadata = device.metadata(2 * nodes, 2 * nodes);
    this.context = this.metadata.context;
    this.#graph = device.ggml.ggml_new_graph_custom(this.context, 2 * nodes, false);
  }

  input(name: string, type: InputType, shape: readonly number[]): Value {
    const known = this.#inputs.get(name);
    if (known) return known;
    const [ne0 = 1, ne1 = 1, ne2 = 1, ne3 = 1] = shape;
    const value = this.#own(this.device.ggml.ggml_new_tensor_4d(this.context, numberOf(type), ne0, ne1, ne2, ne3), 0);
    this.#inputs.set(name, value);
    return value;
  }

  constant(tensor: Pointer): Value {
    return { tensor, owner: undefined };
  }

  step(tensor: Pointer, sources: readonly Value[]): Value {
    this.#run(tensor, sources);
    return this.#own(tensor, this.#step);
  }

  /** A step that writes foreign memory, such as the KV cache. */
  effect(tensor: Pointer, sources: readonly Value[]): void {
    this.#run(tensor, sources);
    this.#views.push(tensor);
  }

  /** A step that writes into the memory of a value, and reads `sources` too. */
  within(tensor: Pointer, of: Value, sources: readonly Value[]): Value {
    this.#run(tensor, [of, ...sources]);
    return this.view(tensor, of);
  }

  /** Memory that the next steps fill in parts. */
  block(width: number, rows: number): Value & { readonly owner: number } {
    return this.#own(this.device.ggml.ggml_new_tensor_4d(this.context, numberOf("f32"), width, rows, 1, 1), this.#step + 1);
  }

  /** A step whose result lies in a block, from a byte offset on. */
  into(tensor: Pointer, block: Value & { readonly owner: number }, offset: number, sources: readonly Value[]): void {
    this.#run(tensor, [block, ...sources]);
    this.#inBlocks.push({ tensor, owner: block.owner, offset });
  }

  /** A step whose rows of indices lie behind those of earlier steps of that width, so that `stack` has all of them. */
  stacked(tensor: Pointer, sources: readonly Value[], { width, rows }: { readonly width: number; readonly rows: number }): Value {
    this.#run(tensor, sources);
    const known = this.#stacks.get(width);
    const at = known?.rows ?? 0;
    const { owner } = known ?? this.#own(tensor, this.#step);
    const rowBytes = width * Int32Array.BYTES_PER_ELEMENT;
    const step = this.device.alignment / gcd(this.device.alignment, rowBytes);
    const end = at + Math.ceil(rows / step) * step;
    this.#stacks.set(width, { owner, rows: end });
    (this.#owned[owner] as Owned).bytes = end * rowBytes;
    if (known !== undefined) this.#inBlocks.push({ tensor, owner, offset: at * rowBytes });
    return { tensor, owner, stacked: { width, at } };
  }

  /** The first columns of all rows that were stacked in that width: [columns, rows]. */
  stack(width: number, columns: number): Value {
    const { owner, rows } = this.#stacks.get(width) as { readonly owner: number; readonly rows: number };
    const tensor = this.device.ggml.ggml_new_tensor_4d(this.context, numberOf("i32"), width, rows, 1, 1);
    this.#inBlocks.push({ tensor, owner, offset: 0 });
    const rowBytes = width * Int32Array.BYTES_PER_ELEMENT;
    return this.whole({
      ...this.view(this.device.ggml.ggml_view_2d(this.context, tensor, columns, rows, rowBytes, 0), { tensor, owner }),
      apart: true,
    });
  }

  /** The value in one piece, as a read of it wants. */
  whole(value: Value): Value {
    return value.apart || value.part ? this.step(this.device.ggml.ggml_cont(this.context, value.tensor), [value]) : value;
  }

  /** Puts a view where a device that fuses steps looks for it. */
  ahead(view: Value): Value {
    if (!this.device.exact) this.device.ggml.ggml_build_forward_expand(this.#graph, view.tensor);
    return view;
  }

  /** A tensor of foreign memory. */
  placed({ handle, address, width, rows }: Place): Value {
    const tensor = this.device.ggml.ggml_new_tensor_4d(this.context, numberOf("f32"), width, rows, 1, 1);
    this.device.ggml.ggml_backend_tensor_alloc(handle, tensor, address);
    return this.constant(tensor);
  }

  /** The value lies in that place after the graph has run. */
  keep(value: Value, place: Place): Value {
    const owned = value.owner === undefined ? undefined : (this.#owned[value.owner] as Owned);
    if (owned?.tensor === value.tensor && owned.place === undefined) {
      owned.place = place;
      return value;
    }
    const placed = this.placed(place);
    this.effect(this.device.ggml.ggml_cpy(this.context, value.tensor, placed.tensor), [value]);
    return placed;
  }

  view(tensor: Pointer, of: Value): Value {
    this.#views.push(tensor);
    return { tensor, owner: of.owner };
  }

  /** A column range of a wider value, without a copy. */
  part(part: NonNullable<Value["part"]>, own: number, rows: number): Value {
    const { whole, from, width } = part;
    const bytes = Float32Array.BYTES_PER_ELEMENT;
    const tensor = this.device.ggml.ggml_view_2d(this.context, whole.tensor, own, rows, width * bytes, from * bytes);
    return Object.assign(this.view(tensor, whole), { part });
  }

  /** `alone`: outputs that lie apart from those that are read together. */
  finish(outputs: Readonly<Record<string, Value>>, alone: ReadonlySet<string>): Graph {
    const { ggml } = this.device;
    for (const { owner } of Object.values(outputs)) if (owner !== undefined) (this.#owned[owner] as Owned).to = this.#step + 1;
    const together = this.device.exact ? undefined : this.#together(Object.entries(outputs).filter(([name]) => !alone.has(name)));
    const { offsets, bytes } = planArena(
      this.#owned.map((each, i) => (each.place === undefined && !together?.offsets.has(i) ? each : { ...each, bytes: 0 })),
      this.device.alignment,
    );
    const scratch = this.device.scratch(bytes, this.#queue);
    const places = this.#owned.map(({ place }, i) => {
      const within = together?.offsets.get(i);
      const offset = within === undefined ? (offsets[i] as number) : (offsets[together?.owner as number] as number) + within;
      return place ?? { handle: scratch.handle, address: scratch.base + BigInt(offset) };
    });
    for (const { tensor, owner, offset } of [
      ...this.#owned.map(({ tensor }, owner) => ({ tensor, owner, offset: 0 })),
      ...this.#inBlocks,
    ]) {
      const { handle, address } = places[owner] as Pick<Place, "handle" | "address">;
      ggml.ggml_backend_tensor_alloc(handle, tensor, address + BigInt(offset));
    }
    for (const view of this.#views) ggml.ggml_backend_view_init(view);
    return new Graph(this.device, {
      metadata: this.metadata,
      queue: this.#queue,
      graph: this.#graph,
      inputs: [...this.#inputs].map(([name, { owner }]) => {
        const { tensor, bytes } = this.#owned[owner as number] as Owned;
        return { name, tensor, bytes };
      }),
      outputs: new Map(Object.entries(outputs)),
      together: together && { tensor: together.tensor, bytes: together.bytes, offsets: together.named },
      cost: this.device.costs[this.#queue].of(
        this.#step,
        this.#owned.reduce((sum, each) => sum + each.bytes, 0),
      ),
    });
  }

  /** A place of the outputs behind each other, which one read has; undefined where they have memory of other values. */
  #together(outputs: readonly (readonly [string, Value])[]) {
    const { ggml } = this.device;
    const [offsets, named] = [new Map<number, number>(), new Map<string, number>()];
    let [bytes, from] = [0, this.#step];
    for (const [name, { owner, tensor }] of outputs) {
      const owned = owner === undefined ? undefined : (this.#owned[owner] as Owned);
      if (owner === undefined || owned === undefined || owned.place !== undefined || offsets.has(owner)) return undefined;
      if (owned.tensor !== tensor && ggml.ggml_nbytes(owned.tensor) !== ggml.ggml_nbytes(tensor)) return undefined; // a part of it
      offsets.set(owner, bytes);
      named.set(name, bytes);
      bytes += this.device.aligned(owned.bytes);
      from = Math.min(from, owned.from);
    }
    const tensor = ggml.ggml_new_tensor_4d(this.context, numberOf("i32"), Math.ceil(bytes / 4), 1, 1, 1);
    const { owner } = this.#own(tensor, from);
    (this.#owned[owner] as Owned).to = this.#step + 1;
    return { owner, tensor, bytes, offsets, named };
  }

  #own(tensor: Pointer, from: number): Value & { readonly owner: number } {
    this.#owned.push({ tensor, bytes: this.device.bytesOf(tensor), from, to: from });
    return { tensor, owner: this.#owned.length - 1 };
  }

  #run(tensor: Pointer, sources: readonly Value[]): void {
    this.device.check(tensor);
    this.#step += 1;
    const until = this.#step + (this.device.exact ? 0 : fusedMost);
    for (const { owner } of sources) if (owner !== undefined) (this.#owned[owner] as Owned).to = until;
    this.device.ggml.ggml_build_forward_expand(this.#graph, tensor);
  }
}

/** `nodes`: the maximum, with inputs and views; `work` returns the outputs. */
export function buildGraph(
  device: GgmlDevice,
  nodes: number,
  work: (build: GraphBuilder) => Readonly<Record<string, Value>>,
  { alone = new Set(), queue }: { readonly alone?: ReadonlySet<string>; readonly queue?: ComputeQueue } = {},
): Graph {
  const build = new GraphBuilder(device, nodes, queue);
  try {
    return build.finish(work(build), alone);
  } catch (caught) {
    build.metadata.free();
    throw caught;
  }
}

interface Parts {
  readonly metadata: Metadata;
  readonly queue: ComputeQueue;
  readonly graph: Pointer;
  readonly inputs: readonly { readonly name: string; readonly tensor: Pointer; readonly bytes: number }[];
  readonly outputs: ReadonlyMap<string, Value>;
  /** The outputs in one piece, and where each begins. */
  readonly together: { readonly tensor: Pointer; readonly bytes: number; readonly offsets: ReadonlyMap<string, number> } | undefined;
  readonly cost: GraphCost;
}

type InputsOf = (name: string) => NodeJS.TypedArray | undefined;

export class Graph {
  readonly #device: GgmlDevice;
  readonly #parts: Parts;
  readonly #generation: number;
  readonly #cost: GraphCost;

  constructor(device: GgmlDevice, parts: Parts) {
    this.#device = device;
    this.#parts = parts;
    this.#generation = device.generationOf(parts.queue);
    this.#cost = parts.cost;
  }

  /** False once the scratch memory has moved: build the graph again. */
  get valid(): boolean {
    return this.#generation === this.#device.generationOf(this.#parts.queue);
  }

  /** Requires the full data of every input; anything missing would be old memory. */
  run(input: InputsOf): void {
    this.#fill(input);
    this.#device.compute(this.#parts.graph, this.#cost);
  }

  /** The same in its queue; undefined: it has run, and nothing else may before its outputs are read. */
  runInQueue(input: InputsOf): Promise<void> | undefined {
    if (this.#parts.queue === "main") return void this.run(input);
    this.#fill(input);
    return this.#device.computeApart(this.#parts.graph, this.#cost);
  }

  #fill(input: InputsOf): void {
    this.#device.assertOpen();
    const { ggml } = this.#device;
    for (const { name, tensor, bytes } of this.#parts.inputs) {
      const data = input(name);
      if (data?.byteLength !== bytes) throw new TypeError(`graph input ${name} has ${data?.byteLength ?? "no"} bytes, ${bytes} are due`);
      ggml.ggml_backend_tensor_set(tensor, data, 0, bytes);
    }
  }

  /** Copies an output of the last run from a byte offset on. */
  read(name: string, into: NodeJS.TypedArray, offset = 0): void {
    this.#device.assertOpen(); // it may have been closed while the queue computed
    const value = this.#parts.outputs.get(name);
    if (!value) throw new TypeError(`the graph has no output ${name}`);
    this.#device.ggml.ggml_backend_tensor_get(value.tensor, into, offset, into.byteLength);
  }

  /** Whole outputs of the last run, by one read where that spares waits for a device. */
  readAll(wanted: readonly (readonly [name: string, into: NodeJS.TypedArray])[]): void {
    const { together } = this.#parts;
    if (together === undefined || wanted.length < 2) {
      for (const [name, into] of wanted) this.read(name, into);
      return;
    }
    const ends = wanted.map(([name, { byteLength }]) => (together.offsets.get(name) as number) + byteLength);
    const starts = wanted.map(([name]) => together.offsets.get(name) as number);
    const first = Math.min(...starts);
    const bytes = new Uint8Array(Math.max(...ends) - first);
    this.#device.ggml.ggml_backend_tensor_get(together.tensor, bytes, first, bytes.length);
    for (const [i, [, into]] of wanted.entries())
      new Uint8Array(into.buffer, into.byteOffset, into.byteLength).set(
        bytes.subarray((starts[i] as number) - first, (ends[i] as number) - first),
      );
  }

  free(): void {
    this.#parts.metadata.free();
  }
}
