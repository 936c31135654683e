// The number types of the KV cache against the reference, which keeps f32: each within its bound.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { KvType } from "../../crds/names.ts";
import type { Backend } from "../../runtime/compute/backend.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import { createReferenceBackend } from "../../runtime/compute/reference.ts";
import { randomTensor } from "../../runtime/kernels/random.ts";
import { kvOf } from "../kit/models/small-engine.ts";
import { syntheticModel } from "../kit/models/synthetic.ts";

/** A long prefill, and a token on top of it. */
const calls = [
  { past: 0, tokens: 199 },
  { past: 199, tokens: 1 },
];

/** What attention and the router of a block make of rows that were written with this type, one array for each call. */
async function rowsOf(backend: Backend, type: KvType): Promise<readonly Float32Array[]> {
  const model = syntheticModel({ head_dim: 32 });
  const block = model.blocks[0]!;
  const program = await backend.compile(block, model.weights(block));
  const cache = await backend.createKv({ ...kvOf(model.program), slots: 2, context: 200, type });
  const rows: Float32Array[] = [];
  for (const { past, tokens } of calls) {
    const x = randomTensor(300 + past, [tokens, model.program.hidden]);
    const { h } = await program.run({ x }, { cache, groups: [{ firstSlot: 1, batch: 1, tokens, past: Int32Array.of(past) }] });
    rows.push((h!.data as Float32Array).slice());
  }
  await program.dispose();
  await cache.dispose();
  return rows;
}

export function runKvTypes(options: {
  readonly name: string;
  readonly make: () => Promise<Backend>;
  /** max|a-b| / max|b| of a block's rows. */
  readonly tolerance: Readonly<Partial<Record<KvType, number>>>;
  /** True where a device keeps those of them that its attention reads, which differs from one to the next. */
  readonly asDevice?: boolean;
}): void {
  describe(`KV types: ${options.name}`, () => {
    test("it says which types it keeps", async () => {
      const backend = await options.make();
      const known = Object.keys(options.tolerance);
      assert.ok(backend.kvTypes.length > 0);
      assert.deepEqual(backend.kvTypes, options.asDevice ? known.filter((type) => backend.kvTypes.includes(type as KvType)) : known);
      await backend.close();
    });

    for (const [type, tolerance] of Object.entries(options.tolerance) as [KvType, number][]) {
      test(`keys and values of ${type} give the reference's rows within ${tolerance}`, async (t) => {
        const backend = await options.make();
        if (options.asDevice && !backend.kvTypes.includes(type)) {
          t.skip(`not kept by ${backend.device}`);
          return backend.close();
        }
        const [got, want] = [await rowsOf(backend, type), await rowsOf(await createReferenceBackend({ threads: 1 }), "f32")];
        for (const i of calls.keys()) {
          const error = relativeError(got[i]!, want[i]!);
          assert.ok(error <= tolerance, `call ${i}: ${error}`);
          if (type !== "f32") assert.ok(error > 1e-5, `call ${i}: ${error} is that of f32`);
        }
        await backend.close();
      });
    }
  });
}
