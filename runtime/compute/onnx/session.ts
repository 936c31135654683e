// Runs a graph on onnxruntime's CPU backend, with outputs written to the caller's arrays.
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
