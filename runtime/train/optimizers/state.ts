// The parameters, gradients and optimizer state of a run, in memory or partly in a file. Neither the place of the state nor the order
// of updates changes bits.
import { createKernel, type Kernel } from "./kernel.ts";
import type { Optimizer, StepFacts } from "./optimizer.ts";
import { chunkBuffers, chunksOf, heldFloats, type Range, type Residency, updateOrder, type Work, wholeResidency } from "./residency.ts";
import type { OpenStateFile, StateFile } from "./state-file.ts";

const floatBytes = Float32Array.BYTES_PER_ELEMENT;

export interface UpdateRange extends Range {
  readonly decays: boolean;
}

type Numbers = (decays: boolean) => Readonly<Record<string, number>>;

interface Held {
  readonly optimizer: Optimizer;
  readonly residency: Residency;
  /** Chunks in memory at once; with one, nothing overlaps. */
  readonly buffers?: number;
}

interface StateOptions extends Held {
  readonly openFile: OpenStateFile;
}

export class OptimizerState {
  readonly p: Float32Array;
  readonly g: Float32Array;
  readonly #optimizer: Optimizer;
  readonly #residency: Residency;
  readonly #kernel: Kernel;
  readonly #file: StateFile | undefined;
  readonly #buffers: number;

  private constructor({ optimizer, residency, buffers = chunkBuffers }: Held, file: StateFile | undefined) {
    this.#optimizer = optimizer;
    this.#residency = residency;
    this.#buffers = buffers;
    this.#file = file;
    this.#kernel = createKernel(optimizer, residency.floats, heldFloats(residency, buffers));
    this.p = this.#kernel.p;
    this.g = this.#kernel.g;
  }

  static resident(optimizer: Optimizer, floats: number): OptimizerState {
    return new OptimizerState({ optimizer, residency: wholeResidency(floats) }, undefined);
  }

  static async open(options: StateOptions): Promise<OptimizerState> {
    const { optimizer, residency, openFile } = options;
    const bytes = (residency.floats - residency.resident) * optimizer.state.length * floatBytes;
    return new OptimizerState(options, chunksOf(residency) === 0 ? undefined : await openFile(bytes));
  }

  /** The arrays of every parameter without its gradient, in the order of storage. */
  get arrays(): readonly string[] {
    return ["p", ...this.#optimizer.state];
  }

  get bytes(): number {
    return [this.p, this.g, ...this.#kernel.state].reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  squares(from: number, to: number): number {
    return this.#kernel.squares(from, to);
  }

  /** One step of disjoint ranges. A failed one leaves some changed; the run continues from its checkpoint. */
  async update(ranges: readonly UpdateRange[], values: Readonly<Record<string, number>>, facts: Omit<StepFacts, "decays">): Promise<void> {
    const [decaying, plain] = [true, false].map((decays) => this.#optimizer.stepNumbers(values, { ...facts, decays }));
    const numbers: Numbers = (decays) => (decays ? decaying : plain) ?? {};
    const works = updateOrder(this.#residency, ranges);
    const file = this.#file;
    if (file === undefined) for (const work of works) this.#compute(work, numbers, 0);
    else await this.#interleaved(works, numbers, file);
  }

  /** Reads the next chunk and writes the last one during the computing of a third. */
  async #interleaved(works: readonly Work<UpdateRange>[], numbers: Numbers, file: StateFile): Promise<void> {
    const chunks = works.flatMap(({ chunk }) => (chunk === undefined ? [] : [chunk]));
    const [reads, writes]: [Promise<void>[], Promise<void>[]] = [[], []];
    const read = async (i: number): Promise<void> => {
      await writes[i - this.#buffers];
      await file.read(this.#buffer(chunks[i] as number, i), this.#offset(chunks[i] as number));
    };
    const ahead = (i: number): void => {
      if (i < chunks.length) reads[i] = observed(read(i));
    };
    try {
      for (let i = 0; i < this.#buffers - 1; i++) ahead(i);
      let i = 0;
      for (const work of works) {
        if (work.chunk === undefined) {
          this.#compute(work, numbers, 0);
          continue;
        }
        ahead(i + this.#buffers - 1);
        await reads[i];
        this.#compute(work, numbers, this.#bufferAt(i) - this.#begin(work.chunk));
        writes[i] = observed(file.write(this.#buffer(work.chunk, i), this.#offset(work.chunk)));
        i++;
      }
      await Promise.all(writes);
    } finally {
      await Promise.allSettled([...reads, ...writes]);
    }
  }

  #compute({ ranges }: Work<UpdateRange>, numbers: Numbers, shift: number): void {
    for (const { from, to, decays } of ranges) this.#kernel.step({ from, to, state: from + shift }, numbers(decays));
  }

  #begin(chunk: number): number {
    return this.#residency.resident + chunk * this.#residency.chunk;
  }

  #lengthOf(chunk: number): number {
    return Math.min(this.#residency.chunk, this.#residency.floats - this.#begin(chunk));
  }

  #offset(chunk: number): number {
    return chunk * this.#residency.chunk * this.#optimizer.state.length * floatBytes;
  }

  #bufferAt(i: number): number {
    return this.#residency.resident + (i % this.#buffers) * this.#residency.chunk;
  }

  #buffer(chunk: number, i: number): Float32Array[] {
    const from = this.#bufferAt(i);
    return this.#kernel.state.map((array) => array.subarray(from, from + this.#lengthOf(chunk)));
  }

  /** A range of an array in pieces. Pieces in memory are views: read them before anything changes. */
  async *read(name: string, from: number, to: number): AsyncGenerator<Float32Array> {
    for (const part of this.#parts(name, from, to)) {
      if (part.at === undefined) {
        yield part.held;
        continue;
      }
      const values = new Float32Array(part.length);
      await this.#file?.read([values], part.at);
      yield values;
    }
  }

  async write(name: string, from: number, values: Float32Array): Promise<void> {
    for (const part of this.#parts(name, from, from + values.length)) {
      const own = values.subarray(part.from - from, part.from - from + part.length);
      if (part.at === undefined) part.held.set(own);
      else await this.#file?.write([own], part.at);
    }
  }

  *#parts(name: string, from: number, to: number) {
    const index = this.#optimizer.state.indexOf(name);
    const { floats, chunk } = this.#residency;
    const resident = name === "p" ? floats : this.#residency.resident;
    const array = name === "p" ? this.p : (this.#kernel.state[index] as Float32Array);
    if (from < resident) {
      const held = array.subarray(from, Math.min(to, resident));
      yield { from, length: held.length, held, at: undefined };
    }
    for (let at = Math.max(from, resident); at < to; ) {
      const number = Math.floor((at - resident) / chunk);
      const [begin, length] = [this.#begin(number), this.#lengthOf(number)];
      const end = Math.min(to, begin + length);
      yield { from: at, length: end - at, held: array, at: this.#offset(number) + floatBytes * (index * length + at - begin) };
      at = end;
    }
  }

  close(): void {
    this.#file?.close();
  }
}

function observed(promise: Promise<void>): Promise<void> {
  promise.catch(() => {});
  return promise;
}
