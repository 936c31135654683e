// Programs cut in parts over threads: lays inputs and outputs out in the pool's arena, runs all parts of all calls in one
// batch and puts the parts together. Sums run in part order, so the bits do not depend on who finished first.

import type { Tensor } from "../../kernels/segment.ts";
import type { Outputs } from "../backend.ts";
import type { SplitProgram } from "./plan.ts";
import type { Job, PartHandle, Pool } from "./pool.ts";

export interface SplitCompiled {
  readonly plan: SplitProgram;
  readonly f32Bytes: number;
  readonly quantizedBytes: number;
  readonly handles: readonly PartHandle[];
  dispose(): Promise<void>;
}

export async function openSplit(pool: Pool, plan: SplitProgram, firstThread: number): Promise<SplitCompiled> {
  let f32Bytes = 0;
  let quantizedBytes = 0;
  const opening = plan.parts.map((build, i) => {
    const graph = build();
    f32Bytes += graph.f32Bytes;
    quantizedBytes += graph.quantizedBytes;
    const io = { input: plan.input, output: plan.output, widthIn: plan.widthIn, widthOut: plan.widthPart };
    return pool.open((firstThread + i) % pool.threads, graph, io);
  });
  const handles = await Promise.all(opening);
  return {
    plan,
    f32Bytes,
    quantizedBytes,
    handles,
    async dispose() {
      await Promise.all(handles.map((handle) => pool.close(handle)));
    },
  };
}

export interface SplitCall {
  readonly split: SplitCompiled;
  readonly input: Tensor;
}

export function runSplits(pool: Pool, calls: readonly SplitCall[]): Outputs[] {
  const rowsOf = ({ split, input }: SplitCall): number => input.data.length / split.plan.widthIn;
  const floats = calls.reduce((sum, call) => {
    const { widthIn, widthPart, parts } = call.split.plan;
    return sum + rowsOf(call) * (widthIn + widthPart * parts.length);
  }, 0);
  const arena = pool.arena(floats);
  const jobs: Job[] = [];
  const firstOutputs: number[] = [];
  let at = 0;
  for (const call of calls) {
    const rows = rowsOf(call);
    const { plan, handles } = call.split;
    arena.set(call.input.data, at);
    const input = at;
    at += rows * plan.widthIn;
    firstOutputs.push(at);
    for (const part of handles) {
      if (rows > 0) jobs.push({ part, rows, input, output: at });
      at += rows * plan.widthPart;
    }
  }
  pool.run(jobs);
  return calls.map((call, i) => ({ [call.split.plan.output]: assemble(arena, firstOutputs[i] as number, rowsOf(call), call.split.plan) }));
}

function assemble(arena: Float32Array, from: number, rows: number, plan: SplitProgram): Tensor {
  const { widthPart, widthOut, parts } = plan;
  const data = new Float32Array(rows * widthOut);
  const size = rows * widthPart;
  if (plan.combine === "columns") {
    for (let part = 0; part < parts.length; part++) {
      for (let row = 0; row < rows; row++) {
        const start = from + part * size + row * widthPart;
        data.set(arena.subarray(start, start + widthPart), row * widthOut + part * widthPart);
      }
    }
  } else {
    data.set(arena.subarray(from, from + size));
    for (let part = 1; part < parts.length; part++) {
      const start = from + part * size;
      for (let j = 0; j < size; j++) data[j] = (data[j] as number) + (arena[start + j] as number);
    }
  }
  return { shape: [rows, widthOut], data };
}
