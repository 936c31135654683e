// Programs cut in parts over threads: lays inputs and outputs out in the pool's arena, runs all parts of all calls in one
// batch and puts the parts together. Sums run in part order, so the bits do not depend on who finished first.

import type { Tensor } from "../../kernels/segment.ts";
import type { Outputs } from "../backend.ts";
import type { BuiltGraph } from "./graph.ts";
import type { SplitProgram } from "./plan-program.ts";
import type { Job, PartHandle, Pool } from "./pool.ts";

/** The part of a program that running needs. Not its builders: they hold the weights, which the sessions have copied. */
type SplitLayout = Omit<SplitProgram, "parts"> & { readonly parts: number };

export interface SplitCompiled {
  readonly plan: SplitLayout;
  readonly f32Bytes: number;
  readonly quantizedBytes: number;
  readonly handles: readonly PartHandle[];
  dispose(): Promise<void>;
}

export async function openSplit(pool: Pool, plan: SplitProgram, firstThread: number): Promise<SplitCompiled> {
  const opened = await Promise.all(plan.parts.map((build, i) => openPart(pool, plan, build(), (firstThread + i) % pool.threads)));
  return compiled(pool, layoutOf(plan), opened);
}

interface OpenedPart {
  readonly handle: PartHandle;
  readonly f32Bytes: number;
  readonly quantizedBytes: number;
}

async function openPart(pool: Pool, plan: SplitProgram, graph: BuiltGraph, thread: number): Promise<OpenedPart> {
  const { f32Bytes, quantizedBytes } = graph;
  const io = { input: plan.input, output: plan.output, widthIn: plan.widthIn, widthOut: plan.widthPart };
  return { handle: await pool.open(thread, graph, io), f32Bytes, quantizedBytes };
}

function layoutOf({ parts, ...layout }: SplitProgram): SplitLayout {
  return { ...layout, parts: parts.length };
}

/** A function of its own: closures share the variables of the function they are made in, and those of openSplit hold the weights. */
function compiled(pool: Pool, plan: SplitLayout, parts: readonly OpenedPart[]): SplitCompiled {
  const handles = parts.map(({ handle }) => handle);
  return {
    plan,
    f32Bytes: parts.reduce((sum, part) => sum + part.f32Bytes, 0),
    quantizedBytes: parts.reduce((sum, part) => sum + part.quantizedBytes, 0),
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
    return sum + rowsOf(call) * (widthIn + widthPart * parts);
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

function assemble(arena: Float32Array, from: number, rows: number, plan: SplitLayout): Tensor {
  const { widthPart, widthOut, parts } = plan;
  const data = new Float32Array(rows * widthOut);
  const size = rows * widthPart;
  if (plan.combine === "columns") {
    for (let part = 0; part < parts; part++) {
      for (let row = 0; row < rows; row++) {
        const start = from + part * size + row * widthPart;
        data.set(arena.subarray(start, start + widthPart), row * widthOut + part * widthPart);
      }
    }
  } else {
    data.set(arena.subarray(from, from + size));
    for (let part = 1; part < parts; part++) {
      const start = from + part * size;
      for (let j = 0; j < size; j++) data[j] = (data[j] as number) + (arena[start + j] as number);
    }
  }
  return { shape: [rows, widthOut], data };
}
