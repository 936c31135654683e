// Programs that run on the caller's thread alone: ONNX graphs with the ops between them that JavaScript does better
// (gather, route). Attention binds the KV view of the call as past,
// and its new rows are stored after the run.
import { kernelOf } from "../../kernels/index.ts";
import type { Segment, Tensor } from "../../kernels/segment.ts";
import { copyF32, type WeightData, type Weights } from "../../kernels/weights.ts";
import type { Compiled, KvCall, Outputs } from "../backend.ts";
import { checkInputs, checkKv } from "../check.ts";
import type { BuiltGraph } from "./graph.ts";
import type { CpuKv } from "./kv.ts";
import { newKey, newValue } from "./lower.ts";
import { residentBytes } from "./memory.ts";
import type { Stage, StagedProgram } from "./plan-program.ts";
import { f32, i32, i64, Session, type Values } from "./session.ts";

interface GraphStage {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly session: Session;
  readonly attention: BuiltGraph["attention"];
}
type Runnable = GraphStage | Extract<Stage, { kind: "js" }>;

interface Call {
  readonly rows: number;
  readonly kv: KvCall | undefined;
  readonly widths: ReadonlyMap<string, number>;
  /** f32 output buffers, kept from call to call of the same number of rows. */
  readonly buffer: (name: string, length: number) => Float32Array;
}

function tableOf(weight: WeightData): Tensor {
  return { shape: weight.shape, data: copyF32(weight) };
}

function attentionFeeds(attention: NonNullable<BuiltGraph["attention"]>, kv: KvCall): Values {
  const cache = kv.cache as CpuKv;
  const view = cache.view(attention.layer, kv);
  const last = kv.past.map((past) => past + kv.tokens - 1);
  const rope = cache.rope(attention.rope);
  const positions = BigInt64Array.from({ length: kv.batch * kv.tokens }, (_, i) =>
    BigInt((kv.past[Math.floor(i / kv.tokens)] as number) + (i % kv.tokens)),
  );
  return {
    past_key: view.keys,
    past_value: view.values,
    seqlens_k: i32(last, [kv.batch]),
    total_length: i32(Int32Array.of(Math.max(...last) + 1), []),
    positions: i64(positions, [kv.batch, kv.tokens]),
    cos: rope.cos,
    sin: rope.sin,
  };
}

function runGraph({ inputs, outputs, session, attention }: GraphStage, values: Map<string, Tensor>, call: Call): void {
  const shape = (width: number): number[] => (attention && call.kv ? [call.kv.batch, call.kv.tokens, width] : [call.rows, width]);
  const width = (name: string): number => call.widths.get(name) ?? 0;
  const feeds: Values = attention && call.kv ? attentionFeeds(attention, call.kv) : {};
  const fetches: Values = {};
  for (const name of inputs) feeds[name] = f32(values.get(name)?.data as Float32Array, shape(width(name)));
  for (const name of outputs) {
    const data = call.buffer(name, call.rows * width(name));
    fetches[name] = f32(data, shape(width(name)));
    values.set(name, { shape: [call.rows, width(name)], data });
  }
  if (attention && call.kv) runAttention(session, attention, { feeds, fetches }, { ...call, kv: call.kv });
  else session.run(feeds, fetches);
}

/** Fetches the new keys and values as well, and stores them. */
function runAttention(
  session: Session,
  attention: NonNullable<BuiltGraph["attention"]>,
  { feeds, fetches }: { readonly feeds: Values; readonly fetches: Values },
  { kv, rows, buffer }: Call & { readonly kv: KvCall },
): void {
  const width = attention.kvHeads * attention.headDim;
  const [keys, values] = [buffer(newKey, rows * width), buffer(newValue, rows * width)];
  const shape = [kv.batch, kv.tokens, width];
  session.run(feeds, { ...fetches, [newKey]: f32(keys, shape), [newValue]: f32(values, shape) });
  (kv.cache as CpuKv).store(attention.layer, kv, keys, values);
}

/** Sessions and tables of a program, and what they weigh; nothing here refers to the weights any more. */
interface Opened {
  readonly stages: readonly Runnable[];
  readonly tables: ReadonlyMap<string, Tensor>;
  readonly residentBytes: number;
}

function openStages(weights: Weights, plan: StagedProgram): Opened {
  const tables = new Map<string, Tensor>();
  let [f32Bytes, quantizedBytes, sessions, tableBytes] = [0, 0, 0, 0];
  const stages = plan.stages.map((stage): Runnable => {
    if (stage.kind === "js") {
      for (const name of stage.tables) {
        const table = tableOf(weights[name] as WeightData);
        tables.set(name, table);
        tableBytes += table.data.byteLength;
      }
      return stage;
    }
    const graph = stage.build();
    f32Bytes += graph.f32Bytes;
    quantizedBytes += graph.quantizedBytes;
    sessions += 1;
    return { inputs: stage.inputs, outputs: stage.outputs, session: new Session(graph), attention: graph.attention };
  });
  return { stages, tables, residentBytes: residentBytes(f32Bytes, quantizedBytes, sessions) + tableBytes };
}

export function compileStaged(segment: Segment, weights: Weights, plan: StagedProgram): Compiled {
  return runnable(segment, openStages(weights, plan), plan.widths);
}

function runnable(segment: Segment, { stages, tables, residentBytes }: Opened, widths: StagedProgram["widths"]): Compiled {
  const buffers = new Map<string, Float32Array>();
  const buffer = (name: string, length: number): Float32Array => {
    let data = buffers.get(name);
    if (!data || data.length !== length) {
      data = new Float32Array(length);
      buffers.set(name, data);
    }
    return data;
  };
  return {
    residentBytes,
    async run(inputs, kv) {
      const rows = checkInputs(segment, inputs);
      checkKv(segment, kv, rows);
      if (rows === 0) return emptyOutputs(segment);
      const values = new Map<string, Tensor>([...tables, ...Object.entries(inputs)]);
      for (const stage of stages) {
        if ("session" in stage) runGraph(stage, values, { rows, kv, widths, buffer });
        else {
          const written = kernelOf(stage.op).forward(stage.op, { read: (name) => values.get(name) as Tensor });
          for (const [name, value] of Object.entries(written)) values.set(name, value);
        }
      }
      return Object.fromEntries(segment.outputs.map(({ name }) => [name, values.get(name) as Tensor]));
    },
    async dispose() {
      for (const stage of stages) if ("session" in stage) stage.session.dispose();
      buffers.clear();
    },
  };
}

function emptyOutputs(segment: Segment): Outputs {
  return Object.fromEntries(
    segment.outputs.map(({ name, dtype, width }) => [
      name,
      { shape: [0, width], data: dtype === "f32" ? new Float32Array(0) : new Int32Array(0) },
    ]),
  );
}
