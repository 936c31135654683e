// The decisions made when a model opens: in which form the dense part is kept beside the experts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { codecNames, type KvType, type PredictorName } from "../../../crds/names.ts";
import { goldenStore } from "../../../test/kit/ranks/loaded-engine.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { defaultLimits } from "../schedule/request.ts";
import { openModel } from "./open.ts";

const { storeDir } = await goldenStore({ codecs: codecNames });
const small = { ...defaultLimits, maxBatchTokens: 16, maxDecodeBatch: 16 };

test("the dense part of f32 is f32 beside experts that are floats, and about a quarter of that beside all others", async () => {
  const denseBytes = new Map<string, number>();
  for (const codec of codecNames) {
    const kv = { kvType: "f16", kvPoolBytes: 1 << 20, maxContext: 32 } as const;
    const model = await openModel({ storeDir, backend: "cpu", codec, ...kv, threads: 1, limits: small });
    denseBytes.set(codec, model.info.denseBytes);
    await model.close();
  }
  const exact = denseBytes.get("f32")!;
  for (const codec of codecNames) {
    if (codecFor(codec).denseBits > 8) assert.equal(denseBytes.get(codec), exact, codec);
    else assert.ok(denseBytes.get(codec)! < 0.35 * exact, `${codec}: ${denseBytes.get(codec)} of ${exact}`);
  }
});

test("what the largest step keeps of its experts counts as dense part, also where memory is short", async () => {
  const options = { storeDir, backend: "cpu", codec: "q4_0", kvPoolBytes: 0, maxContext: 32, threads: 1 } as const;
  const open = async (limits = small, bytes = 2 ** 40, kvType: KvType = "f16") => {
    const memory = { bytes, of: "the test", own: true, expertBytes: 0 };
    const model = await openModel({ ...options, limits, memory, kvType });
    await model.close();
    return model.info;
  };
  const large = { ...defaultLimits, maxBatchTokens: 4096 };
  const [{ denseBytes, topK, hidden, numerics }, { denseBytes: more }] = [await open(), await open(large)];
  assert.match(numerics, /: order 4, .* KV f16$/, "two heads share keys, so sums are as they were");
  const kept = more - denseBytes;
  const sums = 4 * (4096 - 16) * topK * hidden;
  assert.ok(kept > sums && kept < 3 * sums, `${kept} beside ${sums}`);
  const { denseBytes: decodes } = await open({ ...small, maxDecodeBatch: 64 });
  assert.equal(decodes, (await open({ ...small, maxBatchTokens: 64 })).denseBytes, "decodes of more rows count as prompts do");
  const { denseBytes: scored } = await open(small, 2 ** 40, "f32");
  assert.equal(scored > denseBytes, process.arch === "x64", "scores of attention by products count, too");
  const short = denseBytes + 2 ** 22;
  await open(small, short);
  await assert.rejects(open(large, short), { code: "InsufficientMemory" });
});

test("routers that are asked ahead and what a predictor learns count as dense part, also where memory is short", async () => {
  const options = { storeDir, backend: "cpu", codec: "q4_0", kvPoolBytes: 0, maxContext: 32, threads: 1, limits: small } as const;
  const open = async (prefetch?: PredictorName, bytes = 2 ** 40) => {
    const model = await openModel({
      ...options,
      memory: { bytes, of: "the test", own: true, expertBytes: 0 },
      ...(prefetch && { prefetch }),
    });
    await model.close();
    return model.info;
  };
  const { denseBytes, layers, experts, hidden } = await open();
  const [asking, learning] = [(await open("next-gate")).denseBytes - denseBytes, (await open("transitions")).denseBytes - denseBytes];
  assert.equal(asking, 4 * layers * (experts + 1) * hidden, "with the norm before it");
  assert.equal(learning, 4 * layers * experts * (experts + 2));
  let [few, enough] = [0, 2 ** 22];
  while (enough - few > 64) {
    const bytes = (few + enough) >> 1;
    const opened = await open(undefined, bytes).catch(() => undefined);
    [few, enough] = opened === undefined ? [bytes, enough] : [few, bytes];
  }
  await assert.rejects(open("next-gate", enough), { code: "InsufficientMemory" });
  await open("next-gate", enough + asking);
});

test("a worker tries its device before it opens a model, whatever form the model has", async () => {
  for (const codec of ["f32", "q4_0"] as const) {
    const options = { storeDir, backend: "cpu", codec, kvPoolBytes: 1 << 20, maxContext: 32, threads: 1, tryDevice: true } as const;
    await (await openModel(options)).close();
  }
});
