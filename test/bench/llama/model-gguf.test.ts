import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { AppError } from "../../../crds/common.ts";
import type { Backend } from "../../../runtime/compute/backend.ts";
import { createBackend } from "../../../runtime/compute/index.ts";
import { openGguf } from "../../../runtime/weights/gguf.ts";
import { loadModel, type ModelWeights } from "../../kit/models/small-engine.ts";
import { randomModel, type Shape, shapes } from "../gpu-model.ts";
import { writeGguf } from "./gguf.ts";
import { planModelGguf } from "./model-gguf.ts";
import { Peer } from "./peer.ts";

const shape = shapes.tiny as Shape;
const ids = Array.from({ length: shape.prompt }, (_, i) => (i * 7919) % shape.config.vocab_size);
const order = { text: ids, tokens: 2 * shape.prompt, threads: 1 };
const log = (): void => {};

let root = "";
let backend: Backend;
before(async () => {
  root = mkdtempSync(join(tmpdir(), "enodia-model-gguf-"));
  backend = await createBackend("reference", { threads: 1 });
});
after(async () => {
  await backend.close();
  rmSync(root, { recursive: true, force: true });
});

async function ownLogits(model: ModelWeights): Promise<Float32Array> {
  const loaded = await loadModel(backend, model, { context: order.tokens });
  const logits = await loaded.next(ids, 0);
  await loaded.dispose();
  return logits;
}

test("llama.cpp computes the model of the file: its logits are ours, and not those of another rotation", async () => {
  const model = randomModel(shape, 2, "f32");
  const path = join(root, "f32.gguf");
  await writeGguf(planModelGguf(model, shape.config, "f32"), path);
  const peer = await Peer.start({ path, vocab: model.program.vocab, on: { kind: "cpu" }, log });
  try {
    const off = await peer.agreeOnLogits(order, await ownLogits(model));
    assert.ok(off < 2e-3, `${off}`); // its keys and values are halves
    const turned = Object.assign({}, shape, { config: Object.assign({}, shape.config, { rope_theta: 10 }) });
    const other = await ownLogits(randomModel(turned, 2, "f32"));
    const offAsOther = await peer.agreeOnLogits(order, other).catch((error: AppError) => error.code);
    assert.ok(offAsOther === "PeerDisagrees" || Number(offAsOther) > 10 * off, `${offAsOther}`);
    await assert.rejects(
      peer.agreeOnLogits(
        order,
        other.map((value) => -value),
      ),
      { code: "PeerDisagrees" },
    );
  } finally {
    await peer.close();
  }
});

test("experts and dense matrices of the file have the forms of the codec", async () => {
  const path = join(root, "q4_0.gguf");
  await writeGguf(planModelGguf(randomModel(shape, 1, "q4_0"), shape.config, "q4_0"), path);
  const file = await openGguf(path);
  try {
    const forms = ["blk.0.ffn_up_exps.weight", "blk.0.attn_q.weight", "output.weight", "blk.0.ffn_gate_inp.weight"];
    assert.deepEqual(
      forms.map((name) => file.form(name)),
      ["q4_0", "q8_0", "q8_0", "f32"],
    );
  } finally {
    await file.close();
  }
});

test("why there is no llama.cpp is said: no package for the kind, or a file that it does not read", async () => {
  const path = join(root, "none.gguf");
  writeFileSync(path, "no GGUF");
  const start = (on: Parameters<typeof Peer.start>[0]["on"]): Promise<Peer> => Peer.start({ path, vocab: 256, on, log });
  await assert.rejects(start({ kind: "metal", called: "a device" }), { code: "BackendUnavailable", message: /metal/ });
  await assert.rejects(start({ kind: "cpu" }), { code: "BackendUnavailable", message: /none\.gguf/ });
});
