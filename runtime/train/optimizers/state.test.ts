// State of optimizers on disk: the bits of what is in memory, the memory of the law, and an order in which reads, steps and writes go on
// at the same time.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { optimizerNames } from "../../../crds/names.ts";
import { gaussian } from "../../kernels/random.ts";
import { bytesOf } from "../../weights/floats.ts";
import { optimizerOf, optimizerSettings } from "./index.ts";
import type { Optimizer } from "./optimizer.ts";
import { chunksOf, leastBytes, type Residency, residencyOf, updateOrder } from "./residency.ts";
import { OptimizerState, type UpdateRange } from "./state.ts";
import { type OpenStateFile, openStateFile, type StateFile } from "./state-file.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-state-"));
after(() => rmSync(folder, { recursive: true }));
const openFile: OpenStateFile = (bytes) => openStateFile(folder, bytes);

const adamw = optimizerSettings("adamw", {});
const [floats, chunk] = [40_000, 1024];

/** Neighbouring ranges of a model, some of which decay; what is left out is nobody's. */
const rangesOf = (cuts: readonly number[]): UpdateRange[] => {
  const at = [...new Set(cuts.map((cut) => 4 * cut))].sort((a, b) => a - b);
  return at.slice(1).map((to, i) => ({ from: at[i]!, to, decays: i % 3 !== 1 }));
};
const cuts = fc.array(fc.integer({ min: 0, max: floats / 4 }), { minLength: 2, maxLength: 12 });

/** All parameters and their state: `{ p, m, v }`. */
async function stateOf(state: OptimizerState, optimizer: Optimizer): Promise<Readonly<Record<string, Float32Array>>> {
  const arrays: Record<string, Float32Array> = { p: state.p.slice() };
  for (const name of optimizer.state) {
    const whole = new Float32Array(floats);
    let at = 0;
    for await (const part of state.read(name, 0, floats)) {
      whole.set(part, at);
      at += part.length;
    }
    assert.equal(at, floats);
    arrays[name] = whole;
  }
  return arrays;
}

/** Three steps of drawn gradients; returns the digest of parameters and state. */
async function steps(state: OptimizerState, ranges: readonly UpdateRange[], optimizer: Optimizer, values = adamw.values) {
  state.p.set(gaussian(1, floats));
  for (let step = 1; step <= 3; step++) {
    state.g.set(gaussian(10 + step, floats));
    await state.update(ranges, values, { step, rate: 1e-2, clip: 0.5 });
  }
  const hash = createHash("sha256");
  for (const array of Object.values(await stateOf(state, optimizer))) hash.update(bytesOf(array));
  return hash.digest("hex");
}

for (const name of optimizerNames)
  test(`${name}: bits are those of state in memory, whatever lies in the file and however many chunks are held`, async () => {
    const asked = optimizerSettings(name, { "weight-decay": 0.1 });
    const optimizer = optimizerOf(asked);
    await fc.assert(
      fc.asyncProperty(cuts, fc.integer({ min: 0, max: 39 }), fc.integer({ min: 1, max: 4 }), async (given, pages, buffers) => {
        const ranges = rangesOf(given);
        const want = await steps(OptimizerState.resident(optimizer, floats), ranges, optimizer, asked.values);
        const residency: Residency = { floats, resident: pages * chunk, chunk: 2 * chunk };
        const state = await OptimizerState.open({ optimizer, residency, openFile, buffers });
        try {
          assert.equal(await steps(state, ranges, optimizer, asked.values), want);
        } finally {
          await state.close();
        }
      }),
      { numRuns: 12 },
    );
  });

test("a file that forgets a write gives other bits: the comparison above can fail", async () => {
  const optimizer = optimizerOf(adamw);
  const ranges = rangesOf([0, floats / 4]);
  const want = await steps(OptimizerState.resident(optimizer, floats), ranges, optimizer);
  const forgetful: OpenStateFile = async (bytes) => {
    const file = await openFile(bytes);
    let count = 0;
    return { ...file, write: async (arrays, at) => (++count === 3 ? undefined : file.write(arrays, at)) };
  };
  const state = await OptimizerState.open({ optimizer, residency: { floats, resident: 0, chunk }, openFile: forgetful });
  assert.notEqual(await steps(state, ranges, optimizer), want);
  await state.close();
});

test("state that is written comes back, over the border of memory and file", async () => {
  const optimizer = optimizerOf(adamw);
  const state = await OptimizerState.open({ optimizer, residency: { floats, resident: 2048, chunk }, openFile });
  const [m, v] = [gaussian(1, 10_000), gaussian(2, 10_000)];
  await state.write("m", 1000, m);
  await state.write("v", 1000, v);
  const found = await stateOf(state, optimizer);
  for (const [name, given] of Object.entries({ m, v })) {
    const held = found[name]!;
    assert.deepEqual(held.subarray(1000, 11_000), given);
    assert.ok(held.subarray(0, 1000).every((value) => value === 0) && held.subarray(11_000).every((value) => value === 0));
  }
  await state.close();
});

test("memory is what was given, and no more: parameters, gradients, and state up to its bytes", async () => {
  const arrays = optimizerOf(adamw).state.length;
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: leastBytes(arrays), max: 4 * floats * arrays + 10_000 }), async (bytes) => {
      const residency = residencyOf(floats, arrays, bytes);
      const state = await OptimizerState.open({ optimizer: optimizerOf(adamw), residency, openFile });
      const held = state.bytes - 2 * 4 * floats;
      await state.close();
      if (bytes >= 4 * floats * arrays) assert.deepEqual([held, chunksOf(residency)], [4 * floats * arrays, 0]);
      else assert.ok(held <= bytes && held > bytes - 2 * leastBytes(arrays), `${held} of ${bytes}`);
    }),
    { numRuns: 50 },
  );
  assert.throws(() => residencyOf(floats, arrays, leastBytes(arrays) - 1), {
    code: "BadOption",
    message: /^--optimizer-memory is 24575; it must be a whole number of bytes, at least 24576, or left out/,
  });
});

test("an update has every float once, chunks in the order of the file, and what stays spread between them", () => {
  fc.assert(
    fc.property(cuts, fc.integer({ min: 0, max: 39 }), (given, pages) => {
      const ranges = rangesOf(given);
      const works = updateOrder({ floats, resident: pages * chunk, chunk }, ranges);
      const seen = new Uint8Array(floats);
      for (const { chunk: number, ranges: own } of works)
        for (const { from, to, decays } of own)
          for (let i = from; i < to; i++) {
            seen[i]! += decays ? 1 : 2;
            assert.equal(number, i < pages * chunk ? undefined : Math.floor((i - pages * chunk) / chunk));
          }
      const want = new Uint8Array(floats);
      for (const { from, to, decays } of ranges) want.fill(decays ? 1 : 2, from, to);
      assert.deepEqual(seen, want);
    }),
    { numRuns: 50 },
  );
  const even = updateOrder({ floats: 8 * chunk, resident: 4 * chunk, chunk }, [{ from: 0, to: 8 * chunk }]);
  assert.deepEqual(
    even.map(({ chunk: number }) => number),
    [0, undefined, 1, undefined, 2, undefined, 3, undefined],
  );
});

/** A disk that takes `ms` for everything that it is asked for. */
const slow =
  (ms: number, heard: (what: string) => void = () => {}): OpenStateFile =>
  async (bytes) => {
    const file = await openFile(bytes);
    const late =
      (what: string, run: StateFile["read"]): StateFile["read"] =>
      async (arrays, at) => {
        heard(`${what} ${at / (8 * chunk)}`);
        await Promise.all([sleep(ms), run(arrays, at)]);
        heard(`${what} ${at / (8 * chunk)} done`);
      };
    return { ...file, read: late("read", file.read), write: late("write", file.write) };
  };

async function slowUpdate(buffers: number, heard?: (what: string) => void): Promise<number> {
  const residency: Residency = { floats, resident: 0, chunk };
  const state = await OptimizerState.open({ optimizer: optimizerOf(adamw), residency, openFile: slow(5, heard), buffers });
  const begin = performance.now();
  await state.update([{ from: 0, to: floats, decays: true }], adamw.values, { step: 1, rate: 1e-3, clip: 1 });
  const ms = performance.now() - begin;
  await state.close();
  return ms;
}

test("on a disk that takes its time, an update that reads and writes at once takes at most 0.7 of one after another", async () => {
  const [interleaved, sequential] = [await slowUpdate(3), await slowUpdate(1)];
  assert.ok(interleaved <= 0.7 * sequential, `${interleaved} ms of ${sequential}`);
});

test("the next chunk is asked for before one is written; with one buffer it never is", async () => {
  const early = async (buffers: number): Promise<number> => {
    const heard: string[] = [];
    await slowUpdate(buffers, (what) => void heard.push(what));
    return Array.from({ length: 39 }, (_, i) => i).filter((i) => heard.indexOf(`read ${i + 1}`) < heard.indexOf(`write ${i} done`)).length;
  };
  assert.deepEqual([await early(3), await early(2), await early(1)], [39, 39, 0]);
});

test("a disk that fails ends the update with the folder and the remedy, when nothing uses the file any more", async () => {
  let [busy, count] = [0, 0];
  const failing: OpenStateFile = async (bytes) => {
    const file = await openFile(bytes);
    return {
      ...file,
      read: async (arrays, at) => {
        busy += 1;
        try {
          await sleep(2);
          await file.read(arrays, ++count === 5 ? bytes : at);
        } finally {
          busy -= 1;
        }
      },
    };
  };
  const optimizer = optimizerOf(adamw);
  const state = await OptimizerState.open({ optimizer, residency: { floats, resident: 0, chunk }, openFile: failing });
  await assert.rejects(state.update([{ from: 0, to: floats, decays: true }], adamw.values, { step: 1, rate: 1e-3, clip: 1 }), {
    code: "OptimizerState",
    message: new RegExp(
      `^${folder}: 320000 bytes of optimizer state do not lie there \\(it ends too early\\); make room, or give more --optimizer-memory`,
    ),
  });
  assert.equal(busy, 0);
  await state.close();
});

test("a folder that is none is refused when the run begins, and a file leaves no name behind", async () => {
  await assert.rejects(openStateFile(join(import.meta.filename, "x"), 4096), { code: "OptimizerState", message: /ENOTDIR/ });
  const file = await openFile(4096);
  assert.deepEqual(readdirSync(folder), []);
  await file.close();
});
