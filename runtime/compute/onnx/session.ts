// Runs a graph on onnxruntime's CPU backend, with outputs written to the caller's arrays.

import { readFileSync } from "node:fs";
import { arch, cpus } from "node:os";
import ort from "onnxruntime-node";

export interface Feed {
  readonly dims: readonly number[];
  readonly data: Float32Array | BigInt64Array;
}
export type Feeds = Readonly<Record<string, Feed>>;

/** The library's version, which the bits of results depend on. */
export const engine = `onnxruntime ${ort.env.versions.node ?? ort.env.versions.common}`;

const tensor = ({ dims, data }: Feed) =>
  data instanceof Float32Array ? new ort.Tensor("float32", data, dims) : new ort.Tensor("int64", data, dims);

const tensors = (feeds: Feeds, names: readonly string[]) => Object.fromEntries(names.map((name) => [name, tensor(feeds[name] as Feed)]));

export class Session {
  readonly #session: ort.InferenceSession;
  private constructor(session: ort.InferenceSession) {
    this.#session = session;
  }

  static async open(model: Uint8Array, threads: number): Promise<Session> {
    const session = await ort.InferenceSession.create(model, {
      executionProviders: ["cpu"],
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      enableCpuMemArena: true,
      enableMemPattern: true,
      graphOptimizationLevel: "all",
      logSeverityLevel: 3, // errors
      // Spinning threads take cores from others.
      extra: { session: { intra_op: { allow_spinning: "0" } } },
    });
    return new Session(session);
  }

  /** An output may be an input's own array: a product then adds to it in place. */
  async run(feeds: Feeds, outputs: Feeds): Promise<void> {
    await this.#session.run(tensors(feeds, this.#session.inputNames), tensors(outputs, this.#session.outputNames));
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}

/** x64 sets with Linux's flags, in the library's order of preference. */
const sets: readonly { readonly name: string; readonly flags: readonly string[] }[] = [
  { name: "avx512", flags: ["avx512f"] },
  { name: "avx2", flags: ["avx2", "fma"] },
  { name: "avx", flags: ["avx"] },
  { name: "sse2", flags: ["sse2"] },
];

const fieldOf = (cpuinfo: string, key: string): string | undefined => new RegExp(`^${key}\\s*: (.*)$`, "m").exec(cpuinfo)?.[1]?.trim();

interface Processor {
  readonly architecture: string;
  readonly model: string;
  /** /proc/cpuinfo; empty where a system has none. */
  readonly cpuinfo: string;
}

/** Pure. */
export function instructionsOf({ architecture, model, cpuinfo }: Processor): string {
  const flags = new Set(fieldOf(cpuinfo, "flags")?.split(" "));
  const set = sets.find((each) => each.flags.every((flag) => flags.has(flag)));
  if (set !== undefined) return set.name;
  const part = fieldOf(cpuinfo, "CPU part"); // arm64 models may have no name
  return `${architecture} ${model}${part === undefined ? "" : ` ${fieldOf(cpuinfo, "CPU implementer")}-${part}`}`;
}

function cpuinfoHere(): string {
  try {
    return readFileSync("/proc/cpuinfo", "utf8");
  } catch {
    return ""; // not Linux
  }
}

export function instructionsHere(): string {
  return instructionsOf({ architecture: arch(), model: cpus()[0]?.model.trim() ?? "unknown processor", cpuinfo: cpuinfoHere() });
}
