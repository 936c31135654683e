// A compute thread that dies: what waits for it fails, everything after it fails at once, and the backend says that it is done for.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Worker } from "node:worker_threads";
import { syntheticModel } from "../../../test/contract/synthetic.ts";
import { randomTensor } from "../../kernels/random.ts";
import { createCpuBackend } from "./index.ts";

const atOnceMs = 1_000;

test("a dead compute thread is a fault of the backend, and no later step waits for it", async () => {
  const threads: Worker[] = [];
  process.once("worker", (worker: Worker) => threads.push(worker));
  const model = syntheticModel({ intermediate_size: 128 }); // cut in two halves, one for each thread
  const backend = await createCpuBackend({ threads: 2 });
  const program = await backend.compile(model.expertSegment, model.expert(0, 0));
  const input = { x: randomTensor(1, [2, model.program.hidden]) };
  await program.run(input);
  assert.equal(backend.fault(), undefined);
  assert.equal(threads.length, 1);

  await threads[0]!.terminate();
  const startedAt = performance.now();
  await assert.rejects(program.run(input), { code: "BackendFailed" });
  await assert.rejects(backend.compile(model.expertSegment, model.expert(0, 2)), { code: "BackendFailed" });
  await program.dispose();
  assert.equal(backend.fault()?.code, "BackendFailed");
  await backend.close();
  assert.ok(performance.now() - startedAt < atOnceMs, "nothing of that waits for the thread");
});
