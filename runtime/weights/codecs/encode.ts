// Encodes and hashes the units of an expert: in the calling thread, or on several of their own.
import { hash } from "node:crypto";
import { extname } from "node:path";
import { Worker } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { sha256Apart } from "../digest.ts";
import { checkUnitLength, type ExpertMatrices, type UnitShape, valuesOf } from "./codec.ts";
import { codecFor } from "./index.ts";

export interface UnitForm {
  readonly name: CodecName;
  readonly parts: UnitShape;
}

export interface UnitOrder {
  readonly matrices: ExpertMatrices;
  readonly codecs: readonly UnitForm[];
}

interface EncodedUnit {
  readonly bytes: Uint8Array;
  readonly sha256: string;
}

export type FromUnitThread =
  | { readonly units: readonly EncodedUnit[] }
  | { readonly error: { readonly code: string; readonly message: string } };

/** One for each codec, in order. */
export function encodeUnits({ matrices, codecs }: UnitOrder): readonly EncodedUnit[] {
  return codecs.map(({ name, parts }) => {
    const bytes = codecFor(name).encode(matrices, parts);
    return { bytes, sha256: hash("sha256", bytes, "hex") };
  });
}

/** As they are; throws where one has not the length that its form asks for. */
export function unitsAsGiven(units: readonly Uint8Array[], codecs: readonly UnitForm[]): Promise<readonly EncodedUnit[]> {
  return Promise.all(
    codecs.map(async ({ name, parts }, i) => {
      const bytes = units[i] ?? new Uint8Array();
      checkUnitLength(codecFor(name), bytes, parts);
      return { bytes, sha256: await sha256Apart(bytes) };
    }),
  );
}

/** Experts that are under way take no more, as read and encoded; one larger expert goes alone. */
const memoryBytesMax = 256 * 2 ** 20;
/** Each has a heap of its own, and more hash faster than a disk writes. */
const threadsMax = 8;
/** Less than this is encoded before threads have started. */
const threadsFromBytes = 64 * 2 ** 20;

export interface EncodingPlan {
  /** 0: the calling thread. */
  readonly threads: number;
  /** Experts under way. */
  readonly atOnce: number;
}

/** `layers`: of each expert of each layer. */
export function planEncoding(layers: readonly (readonly (readonly UnitForm[])[])[], cpus: number): EncodingPlan {
  const bytesOf = ({ name, parts }: UnitForm): number => codecFor(name).unitBytes(parts);
  const memory = layers
    .flat()
    .map((forms) =>
      forms.reduce((sum, form) => sum + bytesOf(form) + (codecFor(form.name).asGiven ? bytesOf(form) : 4 * valuesIn(form.parts)), 0),
    );
  const total = memory.reduce((sum, bytes) => sum + bytes, 0);
  if (total < threadsFromBytes) return { threads: 0, atOnce: 2 };
  const fitting = Math.max(1, Math.floor(memoryBytesMax / memory.reduce((most, bytes) => Math.max(most, bytes), 1)));
  const threads = Math.min(cpus, fitting, threadsMax);
  return { threads, atOnce: Math.min(threads + 1, fitting) };
}

const valuesIn = (parts: UnitShape): number => parts.reduce((sum, { shape }) => sum + valuesOf(shape), 0);

/** Every order ends, even where the thread does not answer any more. */
class UnitThread {
  readonly #worker = new Worker(new URL(`./encode-thread${extname(import.meta.filename)}`, import.meta.url), { name: "units" });
  readonly #waiting: PromiseWithResolvers<readonly EncodedUnit[]>[] = [];
  #lost: AppError | undefined;

  constructor() {
    this.#worker.on("message", (message: FromUnitThread) => {
      const order = this.#waiting.shift();
      if ("units" in message) order?.resolve(message.units);
      else order?.reject(new AppError(message.error.message, { code: message.error.code }));
    });
    this.#worker.on("error", (cause) => {
      this.#lost = new AppError(`a thread that encodes experts ended: ${cause}`, { code: "Internal", cause });
      for (const order of this.#waiting.splice(0)) order.reject(this.#lost);
    });
  }

  async encode(order: UnitOrder): Promise<readonly EncodedUnit[]> {
    if (this.#lost) throw this.#lost;
    const answer = Promise.withResolvers<readonly EncodedUnit[]>();
    this.#waiting.push(answer);
    const memory = Object.values(order.matrices).map((matrix) => (matrix instanceof Float32Array ? matrix : matrix.data).buffer);
    this.#worker.postMessage(order, [...new Set(memory)] as readonly ArrayBuffer[]);
    return answer.promise;
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }
}

/** Threads in turn. */
export class UnitEncoders {
  readonly #threads: readonly UnitThread[];
  #next = 0;

  constructor(threads: number) {
    this.#threads = Array.from({ length: threads }, () => new UnitThread());
  }

  /** Takes over the matrices' memory. */
  async encode(order: UnitOrder): Promise<readonly EncodedUnit[]> {
    const thread = this.#threads[this.#next++ % this.#threads.length];
    return thread === undefined ? encodeUnits(order) : thread.encode(order);
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.close()));
  }
}
