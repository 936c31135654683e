// Parts of stacked expert tensors: where their values are, and that no more is read than one expert's.
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { StackedTensor } from "../models/family.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { checkExpertTensor, partOf, readExpertTensor, tensorShape } from "./expert-tensors.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-stacked-"));
after(() => rm(dir, { recursive: true }));

/** Row r, column c of matrix m is 100 m + 10 r + c. */
const value = (matrix: number, row: number, column: number): number => 100 * matrix + 10 * row + column;
const matrix = (of: number): number[] => [0, 1].flatMap((row) => [0, 1, 2].map((column) => value(of, row, column)));
const transposed = (rows: readonly number[], columns: number): number[] =>
  Array.from({ length: rows.length }, (_, i) => rows[(i % (rows.length / columns)) * columns + Math.floor(i / (rows.length / columns))]!);

test("a part of an entry is found as runs, interleaved, and transposed", () => {
  const interleaved = [0, 1].flatMap((row) => [0, 1].flatMap((of) => [0, 1, 2].map((column) => value(of, row, column))));
  const cases: Record<string, { entry: number[]; place: Omit<StackedTensor, "tensor" | "expert"> }> = {
    "runs of rows": { entry: [...matrix(0), ...matrix(1)], place: { share: { part: 1, of: 2, order: "runs" } } },
    "interleaved rows": { entry: interleaved, place: { share: { part: 1, of: 2, order: "interleaved" } } },
    "interleaved columns": {
      entry: transposed(interleaved, 3),
      place: { transposed: true, share: { part: 1, of: 2, order: "interleaved" } },
    },
    "a whole transposed matrix": { entry: transposed(matrix(1), 3), place: { transposed: true } },
    "a whole matrix": { entry: matrix(1), place: {} },
  };
  for (const [name, { entry, place }] of Object.entries(cases)) {
    assert.deepEqual([...partOf(Float32Array.from(entry), [2, 3], { tensor: "t", expert: 0, ...place })], matrix(1), name);
  }
  const bias = { tensor: "t", expert: 0, share: { part: 1, of: 2, order: "interleaved" as const } };
  assert.deepEqual([...partOf(Float32Array.of(1, 2, 3, 4), [2], bias)], [2, 4]);
});

test("the tensor of all experts has their number first, and the shape of what lies in it", () => {
  const share = { part: 0, of: 2, order: "interleaved" as const };
  assert.deepEqual(tensorShape("own", [2, 3], 8), [2, 3]);
  assert.deepEqual(tensorShape({ tensor: "t", expert: 0, share }, [2, 3], 8), [8, 4, 3]);
  assert.deepEqual(tensorShape({ tensor: "t", expert: 0, share, transposed: true }, [2, 3], 8), [8, 3, 4]);
  assert.deepEqual(tensorShape({ tensor: "t", expert: 0, share }, [2], 8), [8, 4]);
});

test("one expert's entry is read from a checkpoint; another shape or number is refused by name", async () => {
  const data = Float32Array.from([...matrix(0), ...matrix(1)]);
  const header = JSON.stringify({ stack: { dtype: "F32", shape: [2, 2, 3], data_offsets: [0, data.byteLength] } });
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  await writeFile(join(dir, "model.safetensors"), Buffer.concat([length, Buffer.from(header), Buffer.from(data.buffer)]));
  const checkpoint = await openCheckpoint(dir);
  try {
    checkExpertTensor(checkpoint, { tensor: "stack", expert: 1 }, [2, 3], 2);
    assert.deepEqual([...(await readExpertTensor(checkpoint, { tensor: "stack", expert: 1 }, [2, 3]))], matrix(1));
    await assert.rejects(readExpertTensor(checkpoint, { tensor: "stack", expert: 2 }, [2, 3]), { code: "ShapeMismatch" });
    assert.throws(() => checkExpertTensor(checkpoint, { tensor: "stack", expert: 0 }, [2, 3], 3), { code: "ShapeMismatch" });
    assert.throws(() => checkExpertTensor(checkpoint, { tensor: "other", expert: 0 }, [2, 3], 2), { code: "MissingTensor" });
  } finally {
    await checkpoint.close();
  }
});
