// The contract of layer ranges, on every tiny family below test/golden/families: what a range answers is what layer by layer answers, bit
// for bit on an exact backend, for any rows, slots and contexts. Called by one test file per backend.
import assert from "node:assert/strict";
import { globSync } from "node:fs";
import { basename, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import type { CodecName } from "../../crds/names.ts";
import type { Backend } from "../../runtime/compute/backend.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import { type KvGroup, rowsOfGroups } from "../../runtime/kernels/kv-groups.ts";
import { isPlain } from "../../runtime/kernels/widths.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import { type StoredForm, storedWeight } from "../../runtime/weights/stored.ts";
import type { Checkpoint } from "../../runtime/weights/tensor-view.ts";
import { modelOf } from "../kit/models/golden-files.ts";
import { stored } from "../kit/models/published-parts.ts";
import { type LoadedModel, loadModel, type ModelWeights } from "../kit/models/small-engine.ts";
import { syntheticModel } from "../kit/models/synthetic.ts";

const slots = 3;
const context = 72;
const vocab = 90;

interface Call {
  readonly groups: readonly KvGroup[];
  readonly ids: readonly number[];
}

/** Some prompts have so many rows that experts compute them one after another; a processor lets fewer rows choose. */
const promptLengths = fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 20, max: 40 }));

/** A prefill of some rows in each slot, then steps of neighbours that are not alike, beside which another slot may prefill. */
const callsOf = fc
  .record({
    prompts: fc.array(promptLengths, { minLength: slots, maxLength: slots }),
    steps: fc.array(fc.record({ first: fc.nat(slots - 1), batch: fc.integer({ min: 1, max: slots }), beside: fc.nat(5) }), {
      minLength: 1,
      maxLength: 4,
    }),
    seed: fc.nat(1000),
  })
  .map(({ prompts, steps, seed }): Call[] => {
    const past = new Array<number>(slots).fill(0);
    let next = seed;
    const group = (firstSlot: number, batch: number, tokens: number): KvGroup => {
      const made = { firstSlot, batch, tokens, past: Int32Array.from(past.slice(firstSlot, firstSlot + batch)) };
      for (let slot = firstSlot; slot < firstSlot + batch; slot++) past[slot] = (past[slot] as number) + tokens;
      return made;
    };
    const call = (...groups: readonly KvGroup[]): Call => ({
      groups,
      ids: Array.from({ length: rowsOfGroups(groups) }, () => (next = (next * 31 + 7) % vocab)),
    });
    return [
      ...prompts.map((tokens, slot) => call(group(slot, 1, tokens))),
      ...steps.map(({ first, batch, beside }) => {
        const end = Math.min(first + batch, slots);
        const decode = group(first, end - first, 1);
        return beside > 0 && end < slots ? call(decode, group(end, 1, beside)) : call(decode);
      }),
    ];
  });

/** Experts as checkpoints have them, in rows that every form's blocks fill. */
function modelOfStored(form: StoredForm): ModelWeights {
  const model = syntheticModel({ hidden_size: 256, intermediate_size: 512 });
  const weightsOf = (layer: number, expert: number) =>
    model.expertSegment.weights.map(({ name, shape }, i) => {
      const values = shape.reduce((product, size) => product * size, 1);
      return [name, storedWeight(form, shape, stored(form, values, 100 * layer + 10 * expert + i))];
    });
  return { ...model, expert: (layer, expert) => Object.fromEntries(weightsOf(layer, expert)) };
}

interface Options {
  readonly name: string;
  readonly make: (threads: number) => Promise<Backend>;
  /** 0 where a backend is exact. */
  readonly tolerance: number;
  readonly numRuns?: number;
}

export function runRangeContract({ name, make, tolerance, numRuns = 6 }: Options): void {
  describe(`ranges: ${name}`, () => {
    let backends: readonly Backend[];
    before(async () => {
      backends = [await make(1), await make(2)];
    });
    after(async () => {
      for (const backend of backends ?? []) await backend.close();
    });

    const same = (got: Float32Array, want: Float32Array, what: string): void => {
      if (tolerance === 0) assert.deepEqual(new Uint32Array(got.buffer), new Uint32Array(want.buffer), what);
      else assert.ok(relativeError(got, want) <= tolerance, `${what}: ${relativeError(got, want)}`);
    };

    const compare = async (model: ModelWeights, form?: CodecName): Promise<void> => {
      const loaded: LoadedModel[] = [];
      for (const backend of [backends[0]!, ...backends])
        loaded.push(await loadModel(backend, model, { context, slots, ...(form ? { form } : {}) }));
      const [layered, ...ranged] = loaded as [LoadedModel, ...LoadedModel[]];
      // Layers whose rows carry more, and those with free experts, are passed one by one.
      const { layers } = model.program;
      for (const [i, layer] of layers.entries()) assert.equal(ranged[0]!.range.covers(i), isPlain(layer), `layer ${i}`);
      if (layers.every(isPlain))
        await fc.assert(
          fc.asyncProperty(callsOf, async (calls) => {
            for (const [i, { ids, groups }] of calls.entries()) {
              const want = await layered.step(ids, groups, "layers");
              assert.ok(want.every(Number.isFinite), `call ${i}`);
              for (const each of ranged) {
                same(await each.step(ids, groups, "range"), want, `call ${i}`);
                if (tolerance === 0) assert.deepEqual(each.routes, layered.routes);
              }
            }
          }),
          { numRuns },
        );
      for (const each of loaded) await each.dispose();
    };

    for (const folder of globSync(resolve(import.meta.dirname, "../golden/families/*/config.json"))
      .map((file) => resolve(file, ".."))
      .sort())
      test(`${basename(folder)}: a range gives what its layers give`, async () => {
        const checkpoint: Checkpoint = await openCheckpoint(folder);
        await compare(modelOf(folder, checkpoint));
        await checkpoint.close();
      });

    for (const form of ["q4_0", "iq4_nl"] as const)
      test(`experts of ${form}: a range gives what its layers give`, () => compare(syntheticModel(), form));

    for (const form of ["q8_0", "q4_K", "mxfp4"] as const)
      test(`experts that come as ${form}: a range gives what its layers give`, () => compare(modelOfStored(form)));

    test("a range covers a layer while all of its experts are here, and finds one that came back", async () => {
      const model = syntheticModel({ num_hidden_layers: 2 });
      const { program } = model;
      const [backend] = backends as [Backend];
      const layers = [];
      for (const [l, layer] of program.layers.entries()) {
        if (layer.kind !== "moe") throw new Error("every layer has experts");
        const expertSlab = backend.createExpertSlab(layer.expert, layer.experts);
        const experts = [];
        for (let e = 0; e < layer.experts; e++) experts.push(await expertSlab.put(e, model.expert(l, e)));
        layers.push({ layer, block: await backend.compile(layer.block, model.weights(layer.block)), expertSlab, experts });
      }
      const range = backend.createRange(layers);
      const cache = await backend.createKv({
        layers: 2,
        slots: 1,
        context,
        kvHeads: program.kvHeads,
        headDim: program.headDim,
        valueDim: program.valueDim,
      });
      const x = Float32Array.from({ length: program.hidden }, (_, i) => Math.sin(i));
      const kv = { cache, groups: [{ firstSlot: 0, batch: 1, tokens: 1, past: Int32Array.of(0) }] };
      const whole = await range.run({ x, kv, from: 0, to: 2 });
      const first = await range.run({ x, kv, from: 0, to: 1 });
      const second = await range.run({ x: first.x, kv, from: 1, to: 2 });
      same(second.x, whole.x, "two ranges of one layer");
      assert.deepEqual([...first.ids, ...second.ids], whole.ids);
      const { expertSlab, experts } = layers[1]!;
      for (const expert of experts) await expert.dispose();
      assert.deepEqual([range.covers(0), range.covers(1), range.covers(2)], [true, false, false]);
      for (const number of [3, 1, 0]) await expertSlab.put(number, model.expert(1, number));
      assert.equal(range.covers(1), false, "one is missing");
      await expertSlab.put(2, model.expert(1, 2));
      assert.equal(range.covers(1), true);
      same((await range.run({ x, kv, from: 0, to: 2 })).x, whole.x, "after they came back");
      await cache.dispose();
    });
  });
}
