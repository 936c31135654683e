// A rank of training in a process of its own, told by messages what to train and when. Entry of that process; processes.ts starts it.
import { createTraining } from "../../../runtime/compute/open-training.ts";
import { WireTransport } from "../../../runtime/net/collectives/wire.ts";
import { fixedTls, type TlsMaterial } from "../../../runtime/net/tls.ts";
import type { Rates } from "../../../runtime/placement/training/rates.ts";
import type { MicroBatch } from "../../../runtime/train/passes/passes.ts";
import { Rank } from "../../../runtime/train/ranks/rank.ts";
import type { StepEnd } from "../../../runtime/train/ranks/step-contract.ts";
import { Recorder, recordedBackend, recordedTransport } from "../../../runtime/train/trace/recorder.ts";
import { type Span, type Times, timesOf } from "../../../runtime/train/trace/spans.ts";
import { gatherBytes, reduceBytes } from "../../kit/planner/collective-bytes.ts";
import { fssdpFor, learning, type PlannerName } from "./settings.ts";
import { batchOf, plantedModel, type Sizes, type WorkloadName } from "./workloads.ts";

export interface RankStart {
  readonly rank: number;
  readonly ranks: number;
  readonly host: string;
  readonly tls: TlsMaterial;
  readonly sizes: Sizes;
}

/** Orders after the start; each is answered. A series is a run of one planner on one workload. */
export type Order =
  | { readonly do: "meet"; readonly addresses: readonly string[] }
  | { readonly do: "begin"; readonly series: string; readonly planner: PlannerName; readonly microBatches: number }
  | { readonly do: "steps"; readonly series: string; readonly workload: WorkloadName; readonly from: number; readonly to: number }
  | { readonly do: "end" };

/** What steps took on one rank. */
export interface Took {
  readonly ms: number;
  /** Of all threads of the process. */
  readonly cpuMs: number;
  readonly times: Times;
  /** Rows that passed this rank's experts: rows[step][layer]. */
  readonly rows: readonly (readonly number[])[];
  /** The time of computing them, forward and backward. */
  readonly expertMs: number;
  /** Bytes of payloads sent, by exchange. */
  readonly sent: Readonly<Record<string, number>>;
  /** Of all ranks, by the laws: copies, and sums of their gradients. */
  readonly law: { readonly copies: number; readonly sums: number };
  /** What planners reckon with, as the ranks measured it. */
  readonly rates: Rates | undefined;
  readonly losses: readonly number[];
  readonly spans: readonly Span[];
}

async function begin({ rank, ranks, host, tls, sizes }: RankStart) {
  const addresses: string[] = [];
  const transport = new WireTransport({
    ...{ job: "bench", world: 1, rank, ranks, namespace: "default", name: "train" },
    tls: fixedTls({ cert: Buffer.from(tls.cert), key: Buffer.from(tls.key), ca: Buffer.from(tls.ca) }),
    address: (to) => addresses[to] ?? "",
    onProblem: (message) => process.stderr.write(`rank ${rank}: ${message}\n`),
    // Under a small quota the first step's compiling alone may keep a thread silent for longer than pods are.
    limits: { timeoutMs: 120_000, connectMs: 120_000 },
  });
  const recorder = new Recorder(() => performance.timeOrigin + performance.now());
  const backend = recordedBackend(await createTraining({ threads: 1 }), recorder);
  const model = plantedModel(sizes.layers);
  const expert = model.layout.parts[1]?.units[1];
  const chunk = Float32Array.BYTES_PER_ELEMENT * ((expert?.to ?? 0) - (expert?.from ?? 0));
  const series = new Map<string, Rank>();
  const options = {
    ...{ program: model.program, layout: model.layout, ...learning },
    ...{ microBatches: sizes.microBatches, sequences: sizes.sequences, sequenceLength: sizes.sequenceLength },
    context: {
      transport: recordedTransport(transport, recorder),
      world: 1,
      facts: { node: Array.from({ length: ranks }, (_, each) => each), speed: new Array<number>(ranks).fill(1) },
    },
  };

  async function steps({ series: name, workload, from, to }: Extract<Order, { do: "steps" }>): Promise<Took> {
    const trained = series.get(name) as Rank;
    const batches = Array.from({ length: to - from }, (_, i) => batchOf(workload, from + i, sizes));
    recorder.take();
    const [cpu, begun] = [process.cpuUsage(), performance.now()];
    const [ends, steps]: [StepEnd[], Span[][]] = [[], []];
    for (const [i, microBatches] of batches.entries()) {
      const batch = { microBatch: async (microBatch: number) => microBatches[microBatch] as MicroBatch, documents: async () => "none" };
      const named = { kind: "step", name: `${name}, step ${from + i}`, layer: -1 } as const;
      ends.push((await recorder.around(named, () => trained.step(from + i, batch))) as StepEnd);
      steps.push(recorder.take());
    }
    const ms = performance.now() - begun;
    const { user, system } = process.cpuUsage(cpu);
    const spans = steps.flat();
    const rows = steps.map((own) => rowsOf(own, sizes.layers));
    const told = { rows, law: lawOf(ends, chunk), rates: ends.at(-1)?.rates, losses: ends.map(({ loss }) => loss), spans };
    return { ms, cpuMs: (user + system) / 1000, times: timesOf(spans), ...countsOf(spans), ...told };
  }

  async function obey(order: Order): Promise<unknown> {
    if (order.do === "meet") return void addresses.push(...order.addresses);
    if (order.do === "begin") {
      const made = await Rank.open(backend, { ...options, fssdp: fssdpFor(order.planner, order.microBatches) });
      made.state.load(model.parameters);
      return void series.set(order.series, made);
    }
    if (order.do === "steps") return steps(order);
    return series.clear();
  }
  process.on("message", (order: Order) => {
    obey(order).then(
      (answer) => process.send?.({ answer }),
      (error: unknown) => process.send?.({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
  });
  process.send?.({ answer: `${host}:${await transport.listen(host, 0)}` });
}

/** Rows that passed experts forward, by layer. */
function rowsOf(spans: readonly Span[], layers: number): number[] {
  const found = new Array<number>(layers).fill(0);
  for (const { name, layer, rows = 0 } of spans) if (name === "expert forward") found[layer] = (found[layer] ?? 0) + rows;
  return found;
}

function countsOf(spans: readonly Span[]): Pick<Took, "expertMs" | "sent"> {
  const sent: Record<string, number> = {};
  let expertMs = 0;
  for (const { rows, name, bytes, fromMs, toMs } of spans) {
    if (rows !== undefined) expertMs += toMs - fromMs;
    if (bytes !== undefined) sent[name.slice("send ".length)] = (sent[name.slice("send ".length)] ?? 0) + bytes;
  }
  return { expertMs, sent };
}

function lawOf(ends: readonly StepEnd[], chunk: number): Took["law"] {
  const law = { copies: 0, sums: 0 };
  for (const { primaries, hosts, blocks } of ends)
    for (const [layer, of] of blocks.entries()) {
      law.copies += gatherBytes(hosts[layer] ?? [], chunk);
      law.sums += reduceBytes({ blocks: of, primaries: primaries[layer] ?? [], carried: false }, chunk);
    }
  return law;
}

process.once("message", (start: RankStart) => void begin(start));
process.on("disconnect", () => process.exit(0));
