// The loop on a model of the reference backend whose device goes away.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { MessageChannel } from "node:worker_threads";
import { AppError } from "../../crds/common.ts";
import { importMoe } from "../tools/import-moe.ts";
import { EngineLoop } from "./loop.ts";
import type { ToEngine } from "./messages.ts";
import { openModel } from "./open.ts";

test("a backend that can compute nothing any more ends the loop, even when no request is there", async () => {
  const root = mkdtempSync(join(tmpdir(), "enodia-loop-"));
  const storeDir = join(root, "tiny");
  const from = resolve(import.meta.dirname, "../../test/golden/tiny-f32");
  await importMoe({ from, out: storeDir, codecs: ["f32"], overwrite: false }, () => {});
  const options = { storeDir, backend: "reference", codec: "f32", kvPoolBytes: 1 << 20, maxContext: 32, threads: 1 } as const;
  const model = await openModel(options);
  const { port1, port2 } = new MessageChannel();
  try {
    let fault: AppError | undefined;
    const loop = new EngineLoop(port2, { ...model, backend: { ...model.backend, fault: () => fault } }, options);
    const running = loop.run();
    const stats: ToEngine = { type: "call", id: 1, method: "stats", argument: undefined };
    const answered = new Promise((done) => port1.once("message", done));
    port1.postMessage(stats);
    assert.equal(((await answered) as { type: string }).type, "answer");
    fault = new AppError("the GPU device was lost", { code: "DeviceLost" });
    port1.postMessage(stats); // a worker asks every second
    await assert.rejects(running, { code: "DeviceLost" });
  } finally {
    port1.close();
    await model.close();
    rmSync(root, { recursive: true });
  }
});
