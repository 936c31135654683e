// A graph that runs: onnxruntime on the CPU, with every output written to an array of the caller. Shell; the only importer of the library.
import ort from "onnxruntime-node";

/** Dimensions and values of one tensor of a call. */
export interface Feed {
  readonly dims: readonly number[];
  readonly data: Float32Array | BigInt64Array;
}
export type Feeds = Readonly<Record<string, Feed>>;

/** The version of the library, for what says which bits to expect. */
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
      // Threads that spin between products take the cores of whoever else computes.
      extra: { session: { intra_op: { allow_spinning: "0" } } },
    });
    return new Session(session);
  }

  /** Writes each output to its array, which may be an input's own: a product then adds to it in place. */
  async run(feeds: Feeds, outputs: Feeds): Promise<void> {
    await this.#session.run(tensors(feeds, this.#session.inputNames), tensors(outputs, this.#session.outputNames));
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}
