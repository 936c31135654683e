// Optimizer state in memory, on disk with reads and writes behind the computing, and on disk with each chunk read, computed and written
// before the next: memory of a process of its own beside the memory model, and the time of an update, in turns.
import { fork } from "node:child_process";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { optimizerOf, optimizerSettings } from "../../runtime/train/optimizers/index.ts";
import { chunkBuffers, heldFloats, residencyOf, wholeResidency } from "../../runtime/train/optimizers/residency.ts";
import { OptimizerState } from "../../runtime/train/optimizers/state.ts";
import { openStateFile } from "../../runtime/train/optimizers/state-file.ts";

/** Beside what the arrays take, a process has its own buffers and code. */
const memorySlack = 1.05;
/** Of the time of an update with all in memory, with most of the state on disk behind the computing. Here the system's cache of files may
 *  have all of the file: then no chunk waits, one after another or not. */
const onDiskMost = 1.6;
/** Updates before any is timed: pages are touched for the first time, and code is compiled. */
const warmUpdates = 2;

interface Order {
  readonly floats: number;
  /** Bytes of state in memory; undefined: all. */
  readonly bytes?: number;
  readonly buffers: number;
  readonly folder: string;
}

interface Answer {
  readonly ms: number;
  /** Of the process, above what it had before its arrays. */
  readonly rss: number;
}

const asked = optimizerSettings("adamw", {});
const optimizer = optimizerOf(asked);
const residencyFor = ({ floats, bytes }: Order) =>
  bytes === undefined ? wholeResidency(floats) : residencyOf(floats, optimizer.state.length, bytes);

/** Parameters, gradients, and state as far as it is in memory. */
const lawBytes = (order: Order): number => 4 * (2 * order.floats + optimizer.state.length * heldFloats(residencyFor(order), order.buffers));

async function serve(order: Order): Promise<void> {
  const before = process.memoryUsage().rss;
  const openFile = (size: number) => openStateFile(order.folder, size);
  const state = await OptimizerState.open({ optimizer, residency: residencyFor(order), openFile, buffers: order.buffers });
  state.p.fill(0.5);
  state.g.fill(1e-3);
  let step = 0;
  const update = async (): Promise<Answer> => {
    const begin = performance.now();
    await state.update([{ from: 0, to: order.floats, decays: true }], asked.values, { step: ++step, rate: 1e-3, clip: 1 });
    return { ms: performance.now() - begin, rss: process.memoryUsage().rss - before };
  };
  for (let i = 0; i < warmUpdates; i++) await update();
  process.on("message", () => void update().then((answer) => process.send?.(answer)));
  process.send?.("ready");
}

const order = process.argv[2] === "optimizer-child" ? process.argv[3] : undefined;
if (order !== undefined) await serve(JSON.parse(order) as Order);

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

export async function optimizerBench(args: readonly string[]): Promise<readonly object[]> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      parameters: { type: "string", default: "32000000" },
      runs: { type: "string", default: "7" },
      out: { type: "string", default: tmpdir() },
    },
  });
  const floats = 4 * Math.ceil(Number(values.parameters) / 4);
  const onDisk = { floats, bytes: Math.floor((4 * floats * optimizer.state.length) / 4), folder: values.out };
  const cases: Readonly<Record<string, Order>> = {
    "in memory": { floats, buffers: chunkBuffers, folder: values.out },
    "a quarter in memory, interleaved": { ...onDisk, buffers: chunkBuffers },
    "a quarter in memory, one after another": { ...onDisk, buffers: 1 },
  };
  const children = Object.values(cases).map((each) => fork(import.meta.filename, ["optimizer-child", JSON.stringify(each)]));
  try {
    for (const child of children) await once(child, "message");
    const answers: Answer[][] = children.map(() => []);
    for (let run = 0; run < Number(values.runs); run++)
      for (const [i, child] of children.entries()) {
        child.send("update");
        answers[i]?.push(((await once(child, "message")) as [Answer])[0]);
      }
    const times = answers.map((list) => median(list.map(({ ms }) => ms)));
    return Object.entries(cases).map(([name, each], i) => {
      const [ms, rss, modelled] = [times[i] ?? 0, Math.max(...(answers[i] ?? []).map((answer) => answer.rss)), lawBytes(each)];
      const ofMemory = ms / (times[0] ?? 0);
      return {
        case: name,
        "ms an update": Math.round(ms),
        "ns a parameter": Number(((ms * 1e6) / floats).toFixed(2)),
        "to in memory": Number(ofMemory.toFixed(2)),
        "MB held": Math.round(rss / 1e6),
        "MB by the model": Math.round(modelled / 1e6),
        ok: rss <= memorySlack * modelled && (i !== 1 || ofMemory <= onDiskMost),
      };
    });
  } finally {
    for (const child of children) child.kill();
  }
}
