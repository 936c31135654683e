// Tests every op of a backend on its cases against the reference, before a worker takes requests.
import { AppError } from "../../crds/common.ts";
import { kvTypes as allKvTypes } from "../../crds/names.ts";
import { allCases, isTrainedOnly, type OpCase } from "../kernels/index.ts";
import type { Tensor } from "../kernels/segment.ts";
import type { Backend, KvCache, KvSpec, Outputs } from "./backend.ts";
import { kvTypeRefuses } from "./kv-size.ts";

/** Added to an op's own tolerance, which assumes a good order of sums. */
const slack = 10;
/** The bound for the tolerance class: products of halves, sums in any order. */
const leastBound = 1e-2;

export interface OpResult {
  readonly op: string;
  readonly case: string;
  /** max|a - b| / max|b| against the reference; undefined where the backend refuses the op. */
  readonly error: number | undefined;
  readonly bound: number;
  readonly refused: string | undefined;
}

type KvType = KvSpec["type"];
const [asTheyCome] = allKvTypes;

/** Attention also runs with the backend's default KV type. `only`: one case, as "op: case"; unset = all. */
export async function tryOps(backend: Backend, oracle: Backend, only?: string): Promise<readonly OpResult[]> {
  const results: OpResult[] = [];
  const least = backend.numericClass === "exact" ? 0 : leastBound;
  const due = allCases().filter(({ op }) => backend.ops.has(op) || !isTrainedOnly(op));
  for (const { op, tolerance, case: kernelCase } of due) {
    if (only !== undefined && only !== `${op}: ${kernelCase.name}`) continue;
    const refused = backend.ops.has(op) ? kernelCase.segment.ops.map((each) => backend.refuses(each)).find(Boolean) : "not computed";
    for (const type of kvTypesTried(backend, kernelCase)) {
      results.push({
        op,
        case: type === undefined ? kernelCase.name : `${kernelCase.name}, keys and values of ${type}`,
        bound: Math.max(type === undefined ? least : leastBound, tolerance * slack),
        ...(refused === undefined ? await compared(backend, oracle, { kernelCase, type }) : { refused, error: undefined }),
      });
    }
  }
  return results;
}

function kvTypesTried({ kvTypes: [usual] }: Backend, { kv }: OpCase): readonly KvType[] {
  const other = kv !== undefined && usual !== undefined && usual !== asTheyCome && kvTypeRefuses(usual, kv) === undefined;
  return other ? [undefined, usual] : [undefined];
}

interface Tried {
  readonly kernelCase: OpCase;
  readonly type: KvType;
}

async function compared(backend: Backend, oracle: Backend, { kernelCase, type }: Tried): Promise<Pick<OpResult, "error" | "refused">> {
  try {
    const got = await runCase(backend, kernelCase, type);
    const want = settled(backend, kernelCase, got, await runCase(oracle, kernelCase));
    return { error: distance(got, want), refused: undefined };
  } catch (caught) {
    const { code, message } = AppError.from(caught);
    if (code === "UnsupportedOp" || code === "UnsupportedShape") return { error: undefined, refused: message };
    throw caught;
  }
}

export const wrongOps = (results: readonly OpResult[]): readonly OpResult[] =>
  results.filter(({ error, bound }) => error !== undefined && !(error <= bound));

/** Throws AppError `BackendWrong`, which names the failed cases. */
export function checkResults({ device }: Pick<Backend, "device">, results: readonly OpResult[]): void {
  const [first, ...more] = wrongOps(results);
  if (first === undefined) return;
  const others = more.length > 0 ? `, and ${more.length} more cases` : "";
  throw new AppError(
    `${device} computes ${first.op} (${first.case}) with an error of ${first.error?.toExponential(1)}, ${first.bound.toExponential(1)} are due${others}; see \`enodia runtime selftest\`, or set spec.runtime.backend to another`,
    { code: "BackendWrong", operation: "starting the engine" },
  );
}

/** The expected outputs: the oracle's, or any choice of experts where ties are free. */
export function settled(
  { numericClass }: Pick<Backend, "numericClass">,
  { segment, byOrder = [] }: Pick<OpCase, "segment" | "byOrder">,
  got: Outputs,
  want: Outputs,
): Outputs {
  const experts = segment.inputs[0]?.width ?? 0;
  const free = numericClass === "tolerance" ? byOrder.filter((name) => isChoice(got[name], want[name], experts)) : [];
  return Object.fromEntries(Object.entries(want).map(([name, due]) => [name, free.includes(name) ? (got[name] as Tensor) : due]));
}

function isChoice(got: Tensor | undefined, due: Tensor | undefined, experts: number): boolean {
  const k = due?.shape[1] ?? 0;
  if (got === undefined || got.data.length !== due?.data.length) return false;
  const there = (id: number): boolean => Number.isInteger(id) && id >= 0 && id < experts;
  const rows = Array.from({ length: got.data.length / k }, (_, row) => [...got.data.subarray(row * k, (row + 1) * k)]);
  return rows.every((row) => row.every(there) && new Set(row).size === k);
}

/** The outputs of a test case, copied. */
export async function runCase(backend: Backend, { segment, weights, inputs, kv }: OpCase, type?: KvType): Promise<Outputs> {
  const forms = Object.entries(weights).map(([name, tensor]) => [name, { form: "f32" as const, shape: tensor.shape, data: tensor.data }]);
  const program = await backend.compile(segment, Object.fromEntries(forms));
  let cache: KvCache | undefined;
  try {
    if (kv !== undefined) {
      const { slots, heads, kvHeads, context, headDim, valueDim } = kv;
      cache = await backend.createKv({ layers: 1, slots, heads, kvHeads, context, headDim, valueDim, ...(type && { type }) });
    }
    const call = kv && cache && { cache, groups: kv.groups };
    const outputs = await program.run(inputs, call);
    return Object.fromEntries(Object.entries(outputs).map(([name, { shape, data }]) => [name, { shape, data: data.slice() }]));
  } finally {
    await program.dispose();
    await cache?.dispose();
  }
}

const distance = (got: Outputs, want: Outputs): number =>
  Object.entries(want).reduce((worst, [name, { data }]) => Math.max(worst, relativeError(got[name]?.data ?? [], data)), 0);

/** max|a-b| / max|b|. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let [worst, largest] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    const off = Math.abs((a[i] as number) - (b[i] as number));
    if (Number.isNaN(off)) return Number.POSITIVE_INFINITY;
    worst = Math.max(worst, off);
    largest = Math.max(largest, Math.abs(b[i] as number));
  }
  return worst === 0 ? 0 : worst / largest;
}
