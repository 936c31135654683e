// The cpu backend: ONNX Runtime sessions, one thread each, spread over a pool of threads. Exact class: the bits of a row
// depend neither on the rows beside it nor on the number of threads.
import { cpus } from "node:os";
import type { AppError } from "../../../crds/common.ts";
import type { Segment, Tensor } from "../../kernels/segment.ts";
import { plainWeights, type WeightForms, type Weights } from "../../kernels/weights.ts";
import type { Backend, BackendFactory, Compiled, Inputs, KvCall, KvSpec, Outputs } from "../backend.ts";
import { checkInputs, checkKv, checkOps, weightOf } from "../check.ts";
import { CpuKv } from "./kv.ts";
import { cpuCapabilities } from "./lower.ts";
import { expertBytes, residentBytes } from "./memory.ts";
import { ffnShape, partsPerProgram, planProgram } from "./plan-program.ts";
import { Pool } from "./pool.ts";
import { openSplit, runSplits, type SplitCompiled } from "./split-program.ts";
import { compileStaged } from "./staged.ts";

function checkWeights(segment: Segment, weights: Weights): void {
  for (const { name } of segment.weights) weightOf(segment, weights, name);
}

function describeDevice(threads: number): string {
  const model = cpus()[0]?.model.trim() ?? "unknown processor";
  return `cpu: ${model}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
}

class CpuBackend implements Backend {
  readonly device: string;
  readonly numericClass = "exact";
  readonly prefillEqualsDecode = false;
  readonly sharesCores = true;
  readonly ops = cpuCapabilities.ops;
  readonly refuses = cpuCapabilities.refuses;
  readonly #pool: Pool;
  readonly #denseBits: 8 | 32;
  readonly #splits = new WeakMap<Compiled, SplitCompiled>();
  #turn = 0;

  constructor(threads: number, bits: 8 | 16 | 32) {
    this.device = describeDevice(threads);
    this.#pool = new Pool(threads);
    this.#denseBits = bits === 8 ? 8 : 32;
  }

  async compile(segment: Segment, weights: Weights): Promise<Compiled> {
    checkOps(cpuCapabilities, this.device, segment);
    checkWeights(segment, weights);
    const plain = plainWeights(weights);
    const plan = planProgram(segment, plain, { denseBits: this.#denseBits });
    if (plan.kind === "staged") return compileStaged(segment, plain, plan);
    const first = this.#turn;
    this.#turn = (this.#turn + plan.parts.length) % this.#pool.threads;
    const split = await openSplit(this.#pool, plan, first);
    const compiled: Compiled = {
      residentBytes: residentBytes(split.f32Bytes, split.quantizedBytes, plan.parts.length),
      run: async (inputs) => this.#runSplit(segment, split, inputs),
      dispose: () => split.dispose(),
    };
    this.#splits.set(compiled, split);
    return compiled;
  }

  async createKv(spec: KvSpec): Promise<CpuKv> {
    return new CpuKv(spec);
  }

  async runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[]): Promise<readonly Outputs[]> {
    const splits = calls.map(({ program }) => this.#splits.get(program));
    if (!splits.every((split) => split !== undefined)) {
      const outputs: Outputs[] = [];
      for (const { program, inputs } of calls) outputs.push(await program.run(inputs));
      return outputs;
    }
    return runSplits(
      this.#pool,
      calls.map(({ inputs }, i) => {
        const split = splits[i] as SplitCompiled;
        return { split, input: inputs[split.plan.input] as Tensor };
      }),
    );
  }

  expertResidentBytes(segment: Segment, forms: WeightForms): number {
    const form = forms[segment.weights.find(({ shape }) => shape.length > 1)?.name ?? ""] ?? "f32";
    return expertBytes(segment, form, ffnShape(segment) ? partsPerProgram : 1);
  }

  fault(): AppError | undefined {
    return this.#pool.fault;
  }

  close(): Promise<void> {
    return this.#pool.terminate();
  }

  #runSplit(segment: Segment, split: SplitCompiled, inputs: Inputs, kv?: KvCall): Outputs {
    checkKv(segment, kv, checkInputs(segment, inputs));
    return runSplits(this.#pool, [{ split, input: inputs[split.plan.input] as Tensor }])[0] as Outputs;
  }
}

export const createCpuBackend: BackendFactory = async ({ threads, denseBits }) => new CpuBackend(Math.max(1, threads), denseBits ?? 32);
