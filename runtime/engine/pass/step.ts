// A step: its rows through the layers, in one or two batches.
import type { KvCall } from "../../compute/backend.ts";
import type { KvGroup } from "../../kernels/kv-groups.ts";
import { kindOf } from "../schedule/step-plan.ts";
import { passLayers, rangeOf } from "./layers.ts";
import { Mutex } from "./mutex.ts";
import { type Part, type StepTools, stepMs } from "./step-tools.ts";

/** Returns the rows after the last layer, [n, hidden], unless `tools.head` took what there is; the first `decodes` decode. */
export async function forward(tools: StepTools, tokens: Int32Array, kv: KvCall, decodes: number): Promise<Float32Array> {
  const { overlap, scheduler } = tools;
  const rows = tokens.length;
  const kind = kindOf(rows, decodes);
  const [startedAt, waited] = [stepMs(tools), scheduler.waitedMs];
  const parts = tools.heads === undefined && overlap?.wants(kind, rows) ? twoBatches(tools, tokens, kv, decodes) : undefined;
  scheduler.begin(parts?.length ?? 1);
  const xs = await allOf(
    (parts ?? [{ ...wholeOf(tokens, kv, decodes), head: tools.head }]).map((part) => {
      const passed = passLayers(tools, part).catch(part.failed);
      return passed.finally(() => scheduler.ended());
    }),
  );
  const waitedMs = scheduler.waitedMs - waited;
  overlap?.took({ kind, rows, overlapped: parts !== undefined, ms: stepMs(tools) - startedAt, waitedMs });
  const [first, second] = xs as [Float32Array, Float32Array?];
  if (second === undefined) return first;
  const x = new Float32Array(first.length + second.length);
  x.set(first);
  x.set(second, first.length);
  return x;
}

function wholeOf(tokens: Int32Array, kv: KvCall, decodes: number): Part {
  return { tokens, kv, first: 0, decodes, mutex: new Mutex(), before: () => undefined, attended: () => {}, failed };
}

const failed = (error: unknown): never => {
  throw error;
};

/** Waits for all, since a part that still runs would write keys of the next step. */
async function allOf<T>(parts: readonly Promise<T>[]): Promise<T[]> {
  const ended = await Promise.allSettled(parts);
  return ended.map((part) => (part.status === "fulfilled" ? part.value : failed(part.reason)));
}

/** Divides between requests where a slot ends, else the tokens of one prompt, whose later ones read the earlier ones' keys. */
function twoBatches({ program }: StepTools, tokens: Int32Array, kv: KvCall, decodes: number): readonly Part[] | undefined {
  const at = tokens.length >> 1;
  if (at === 0) return undefined;
  const mutex = new Mutex();
  const gates = program.layers.map(() => gate());
  const first = {
    first: 0,
    decodes: Math.min(decodes, at),
    mutex,
    tokens: tokens.slice(0, at),
    kv: rangeOf(kv, 0, at),
    before: () => undefined,
    attended: (layer: number) => gates[layer]?.open(),
    failed: (error: unknown): never => {
      for (const { fail } of gates) fail(error);
      throw error;
    },
  };
  const later = { first: at, decodes: Math.max(0, decodes - at), mutex, tokens: tokens.slice(at), kv: rangeOf(kv, at, tokens.length - at) };
  const apart = slotEnds(kv.groups).includes(at);
  return [first, { ...later, before: (layer) => (apart ? undefined : gates[layer]?.opened), attended: () => {}, failed }];
}

function slotEnds(groups: readonly KvGroup[]): number[] {
  let rows = 0;
  return groups.flatMap(({ batch, tokens }) => Array.from({ length: batch }, () => (rows += tokens)));
}

interface Gate {
  readonly opened: Promise<void>;
  open(): void;
  fail(error: unknown): void;
}

function gate(): Gate {
  const { promise: opened, resolve: open, reject: fail } = Promise.withResolvers<void>();
  opened.catch(() => {}); // nobody may be waiting
  return { opened, open, fail };
}
