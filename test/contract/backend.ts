// The contract of every backend: one suite, called by one test file per backend. A deviation is named with its reason in `skip`.
// The oracle is the reference backend; tolerances are each op's own times `slack`.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Backend, Compiled, KvCache, Outputs } from "../../runtime/compute/backend.ts";
import { kvBlockBytes, kvBlocksOfContext } from "../../runtime/compute/kv-size.ts";
import { relativeError, runCase, settled } from "../../runtime/compute/op-self-test.ts";
import { createReferenceBackend } from "../../runtime/compute/reference.ts";
import { allCases, type OpCase, opNames } from "../../runtime/kernels/index.ts";
import { type KvGroup, rowsOfGroups } from "../../runtime/kernels/kv-groups.ts";
import { gaussian, randomTensor } from "../../runtime/kernels/random.ts";
import type { OpName, Segment, Tensor } from "../../runtime/kernels/segment.ts";
import type { WeightOf, Weights } from "../../runtime/kernels/weights.ts";
import { formsAlike } from "../../runtime/weights/codecs/codec.ts";
import { kvOf, loadModel } from "../kit/models/small-engine.ts";
import { syntheticModel } from "../kit/models/synthetic.ts";

export interface BackendContract {
  readonly name: string;
  readonly make: () => Promise<Backend>;
  /** The class that the backend must call itself; "exact" is then proven. */
  readonly numericClass: Backend["numericClass"];
  /** Factor on every op's own tolerance: 1 for f32 sums in a good order, more where exp or division is approximate. */
  readonly slack: number;
  /** max|a-b| / max|b| of whole segments and models (1e-5 for what sums in f32 in a good order). */
  readonly tolerance: number;
  /** The same for experts in four bits, which a backend may run with rounded activations. */
  readonly coarseTolerance: number;
  /** Ops that it does not compute: refused by name, and no others. */
  readonly lacks?: readonly OpName[];
  readonly skip?: readonly { readonly reason: string; readonly tests: RegExp }[];
}

const rowsGrid = [1, 2, 3, 63, 64, 65];

const weightsOf = (kernelCase: OpCase): Weights =>
  Object.fromEntries(Object.entries(kernelCase.weights).map(([name, tensor]) => [name, { form: "f32" as const, ...tensor }]));

function assertClose(got: Outputs, want: Outputs, tolerance: number, what = ""): void {
  assert.deepEqual(Object.keys(got).sort(), Object.keys(want).sort());
  for (const [name, tensor] of Object.entries(want)) {
    const value = got[name] as Tensor;
    assert.equal(value.data.constructor, tensor.data.constructor, `${what} ${name}: element type`);
    assert.equal(value.data.length, tensor.data.length, `${what} ${name}: length`);
    if (tensor.data instanceof Int32Array || tolerance === 0) assert.deepEqual([...value.data], [...tensor.data], `${what} ${name}`);
    else {
      const error = relativeError(value.data, tensor.data);
      assert.ok(error <= tolerance, `${what} ${name}: relative error ${error.toExponential(2)} > ${tolerance.toExponential(2)}`);
    }
  }
}

const keep = (outputs: Outputs): Outputs =>
  Object.fromEntries(Object.entries(outputs).map(([name, { shape, data }]) => [name, { shape, data: data.slice() }]));

const x = (seed: number, rows: number, width: number) => ({ x: randomTensor(seed, [rows, width]) });

export function runBackendContract(contract: BackendContract): void {
  describe(`backend contract: ${contract.name}`, () => {
    let backend: Backend;
    let oracle: Backend;
    before(async () => {
      backend = await contract.make();
      oracle = await createReferenceBackend({ threads: 1 });
    });
    after(async () => {
      await backend?.close();
    });
    const check = (name: string, body: () => Promise<void>): void => {
      const deviation = contract.skip?.find(({ tests }) => tests.test(name));
      test(name, deviation ? { skip: deviation.reason } : {}, body);
    };

    check("says which numeric class it is, and on what device", async () => {
      assert.equal(backend.numericClass, contract.numericClass);
      assert.match(backend.device, /^[a-z]+: \S/);
    });

    const model = syntheticModel();
    const { program, expertSegment, blocks } = model;

    const refusedOp = (segment: Segment, op: string) => (error: any) =>
      error.code === "UnsupportedOp" && [op, segment.name, backend.device].every((what) => error.message.includes(what));

    check("an op that it lacks is refused by name when a segment is compiled", async () => {
      assert.deepEqual(
        opNames.filter((op) => !backend.ops.has(op)),
        contract.lacks ?? [],
      );
      const block = blocks[0]!;
      const planted: Segment = { ...block, ops: [{ op: "planted", x: "x", out: "h" } as never, ...block.ops] };
      await assert.rejects(backend.compile(planted, model.weights(block)), refusedOp(planted, "planted"));
      for (const { op, case: kernelCase } of allCases()) {
        if (backend.ops.has(op)) continue;
        await assert.rejects(backend.compile(kernelCase.segment, weightsOf(kernelCase)), refusedOp(kernelCase.segment, op));
      }
    });

    check("every head size is computed as by the reference, or refused by its number when a segment is compiled", async () => {
      for (const headDim of [4, 6, 8, 18, 40, 96, 256]) {
        const variant = syntheticModel({ head_dim: headDim, num_attention_heads: 2, num_key_value_heads: 1 });
        const block = variant.blocks[0]!;
        const reason = block.ops.map((op) => backend.refuses(op)).find((each) => each !== undefined);
        if (reason !== undefined) {
          const refused = (error: any) =>
            error.code === "UnsupportedShape" &&
            [block.name, `head size of ${headDim}`, backend.device].every((what) => error.message.includes(what));
          await assert.rejects(backend.compile(block, variant.weights(block)), refused, `head size ${headDim}`);
          continue;
        }
        const calls = [
          { tokens: 5, past: 0 },
          { tokens: 1, past: 5 },
        ];
        const results: Outputs[][] = [];
        for (const each of [backend, oracle]) {
          const compiled = await each.compile(block, variant.weights(block));
          const cache = await each.createKv({ ...kvOf(variant.program), slots: 1, context: 8 });
          const outputs: Outputs[] = [];
          for (const { tokens, past } of calls) {
            const call = { cache, groups: [{ firstSlot: 0, batch: 1, tokens, past: Int32Array.of(past) }] };
            outputs.push(keep(await compiled.run(x(tokens, tokens, variant.program.hidden), call)));
          }
          results.push(outputs);
          await compiled.dispose();
          await cache.dispose();
        }
        for (const i of calls.keys()) assertClose(results[0]![i]!, results[1]![i]!, contract.tolerance, `head size ${headDim}`);
      }
    });

    for (const { op, tolerance, case: kernelCase } of allCases()) {
      if (contract.lacks?.includes(op)) continue;
      check(`${op}: ${kernelCase.name}`, async () => {
        const reason = kernelCase.segment.ops.map((each) => backend.refuses(each)).find((each) => each !== undefined);
        if (reason !== undefined) {
          const refused = (error: any) => error.code === "UnsupportedShape" && error.message.includes(reason) && reason.includes(op);
          return assert.rejects(backend.compile(kernelCase.segment, weightsOf(kernelCase)), refused);
        }
        const got = await runCase(backend, kernelCase);
        assertClose(got, settled(backend, kernelCase, got, await runCase(oracle, kernelCase)), tolerance * contract.slack);
      });
    }

    for (const form of ["f32", "iq4_nl"] as const) {
      check(`expert, ${form}: ${rowsGrid.join(", ")} rows equal the reference`, async () => {
        const [mine, theirs] = await Promise.all(
          [backend, oracle].map((b) => b.compile(expertSegment, model.expert(0, 1, form)) as Promise<Compiled>),
        );
        for (const rows of rowsGrid) {
          const inputs = x(rows, rows, program.hidden);
          const tolerance = form === "f32" ? contract.tolerance : contract.coarseTolerance;
          assertClose(await mine!.run(inputs), await theirs!.run(inputs), tolerance, `${rows} rows`);
        }
        await mine!.dispose();
      });

      check(`expert, ${form}: resident bytes stay within what the budget planned`, async () => {
        const expert = await backend.compile(expertSegment, model.expert(0, 0, form));
        assert.ok(expert.residentBytes > 0);
        assert.ok(
          expert.residentBytes <= backend.expertResidentBytes(expertSegment, formsAlike(form)(expertSegment.weights)),
          `${expert.residentBytes} resident`,
        );
        await expert.dispose();
      });
    }

    check("expert: weights are taken at compile time, so the caller's buffer may be overwritten afterwards", async () => {
      const own = Object.fromEntries(
        Object.entries(model.expert(0, 1)).map(([name, w]) => [name, { ...w, data: (w as WeightOf<"f32">).data.slice() }]),
      ) as Record<string, WeightOf<"f32">>;
      const expert = await backend.compile(expertSegment, own);
      const inputs = x(4, 2, program.hidden);
      const want = keep(await expert.run(inputs));
      for (const weight of Object.values(own)) weight.data.fill(Number.NaN);
      assertClose(await expert.run(inputs), want, 0);
      await expert.dispose();
    });

    check("a call of no rows gives no rows", async () => {
      const expert = await backend.compile(expertSegment, model.expert(0, 0));
      const none = await expert.run({ x: { shape: [0, program.hidden], data: new Float32Array(0) } });
      assert.equal(none.y?.data.length, 0);
      await expert.dispose();
    });

    check("runMany answers in the order of its calls, with what single runs give", async () => {
      const experts = await Promise.all([0, 1, 2, 3].map((e) => backend.compile(expertSegment, model.expert(1, e))));
      const calls = experts.map((expert, e) => ({ program: expert, inputs: x(e, e + 1, program.hidden) }));
      const together = (await backend.runMany(calls)).map(keep);
      for (const [i, { program: single, inputs }] of calls.entries()) {
        assertClose(together[i]!, await single.run(inputs), backend.numericClass === "exact" ? 0 : contract.tolerance, `call ${i}`);
      }
      assert.deepEqual(await backend.runMany([]), []);
      for (const expert of experts) await expert.dispose();
    });

    check("fifty experts compiled and disposed one after another leave the last one right", async () => {
      const inputs = x(5, 3, program.hidden);
      for (let i = 0; i < 50; i++) {
        const expert = await backend.compile(expertSegment, model.expert(0, i % model.experts));
        await expert.run(inputs);
        await expert.dispose();
      }
      const [mine, theirs] = await Promise.all([backend, oracle].map((b) => b.compile(expertSegment, model.expert(0, 3))));
      assertClose(await mine!.run(inputs), await theirs!.run(inputs), contract.tolerance);
      await mine!.dispose();
    });

    describe("block with KV", () => {
      const spec = { ...kvOf(program), slots: 4, context: 80 };
      const block = blocks[1]!;
      let pair: { readonly program: Compiled; readonly kv: KvCache }[];
      before(async () => {
        pair = [];
        for (const b of [backend, oracle]) {
          pair.push({ program: await b.compile(block, model.weights(block)), kv: await b.createKv(spec) });
        }
      });
      after(async () => {
        for (const { program: compiled, kv } of pair ?? []) {
          await compiled.dispose();
          await kv.dispose();
        }
      });

      const both = async (seed: number, ...groups: KvGroup[]): Promise<readonly [Outputs, Outputs]> => {
        const inputs = x(seed, rowsOfGroups(groups), program.hidden);
        const results: Outputs[] = [];
        for (const { program: compiled, kv } of pair) results.push(keep(await compiled.run(inputs, { cache: kv, groups })));
        return [results[0]!, results[1]!];
      };
      const prefill = (firstSlot: number, past: number, tokens: number): KvGroup => ({
        firstSlot,
        batch: 1,
        tokens,
        past: Int32Array.of(past),
      });

      check("prefill in chunks, then batched decode on unequal pasts, equals the reference", async () => {
        const calls: KvGroup[][] = [
          [prefill(0, 0, 17)],
          [prefill(1, 0, 63)],
          [prefill(1, 63, 1)],
          [prefill(0, 17, 5)],
          [prefill(2, 0, 1)],
          [{ firstSlot: 0, batch: 3, tokens: 1, past: Int32Array.of(22, 64, 1) }],
          [{ firstSlot: 1, batch: 2, tokens: 1, past: Int32Array.of(65, 2) }],
          [{ firstSlot: 0, batch: 1, tokens: 1, past: Int32Array.of(23) }],
          [{ firstSlot: 1, batch: 2, tokens: 1, past: Int32Array.of(66, 3) }, prefill(0, 24, 9), prefill(3, 0, 70)],
          [prefill(2, 4, 3), prefill(3, 70, 10), { firstSlot: 0, batch: 2, tokens: 2, past: Int32Array.of(33, 67) }],
          [prefill(3, 0, 80)],
        ];
        for (const [i, call] of calls.entries()) {
          const [got, want] = await both(100 + i, ...call);
          assertClose(got, want, contract.tolerance, `call ${i}`);
        }
      });

      check("a slot copied to another goes on as the original would, and the original is untouched", async () => {
        await both(200, prefill(0, 0, 9));
        await both(201, prefill(3, 0, 30));
        for (const { kv } of pair) await kv.copySlot(0, 3, 9);
        const step = (slot: number): KvGroup => ({ firstSlot: slot, batch: 1, tokens: 1, past: Int32Array.of(9) });
        const [copy, want] = await both(202, step(3));
        assertClose(copy, want, contract.tolerance);
        const [original] = await both(202, step(0));
        assertClose(original, copy, 0);
        const [partial, wantPartial] = await both(203, { firstSlot: 3, batch: 1, tokens: 1, past: Int32Array.of(4) });
        assertClose(partial, wantPartial, contract.tolerance);
      });

      check("a slot that moves goes on as it would have, and what is trimmed or left behind is written anew", async () => {
        await both(230, prefill(1, 0, 70));
        for (const { kv } of pair) {
          await kv.moveSlot(1, 2, 70);
          kv.trimSlot(2, 66);
        }
        const [moved, want] = await both(231, { firstSlot: 2, batch: 1, tokens: 1, past: Int32Array.of(66) });
        assertClose(moved, want, contract.tolerance);
        const [anew, wantAnew] = await both(232, prefill(1, 0, 7));
        assertClose(anew, wantAnew, contract.tolerance);
        for (const { kv } of pair) assert.throws(() => kv.trimSlot(4, 0), { code: "InvalidArgument" });
      });

      check("a copy of no positions and a copy onto itself change nothing", async () => {
        await both(210, prefill(2, 0, 5));
        for (const { kv } of pair) {
          await kv.copySlot(0, 2, 0);
          await kv.copySlot(2, 2, 5);
        }
        const [got, want] = await both(211, { firstSlot: 2, batch: 1, tokens: 1, past: Int32Array.of(5) });
        assertClose(got, want, contract.tolerance);
      });

      check("a program that served one cache serves another after the first is gone", async () => {
        const outputs: Outputs[][] = [];
        for (const [i, { program: compiled }] of pair.entries()) {
          const row: Outputs[] = [];
          for (const seed of [220, 221]) {
            const kv = await [backend, oracle][i]!.createKv({ ...spec, slots: 1 });
            row.push(keep(await compiled.run(x(seed, 7, program.hidden), { cache: kv, groups: [prefill(0, 0, 7)] })));
            await kv.dispose();
          }
          outputs.push(row);
        }
        for (const i of [0, 1]) assertClose(outputs[0]![i]!, outputs[1]![i]!, contract.tolerance, `cache ${i}`);
      });

      check("KV bytes are those of all layers, keys and values", async () => {
        const pages = backend.kvPageBytes;
        const blocks = spec.slots * kvBlocksOfContext(spec.context);
        assert.equal(pair[0]!.kv.bytes, blocks * kvBlockBytes(spec, pages));
        assert.equal(pair[0]!.kv.slots, spec.slots);
        assert.equal(pair[0]!.kv.context, spec.context);
      });

      check("KV calls outside the cache are refused by name", async () => {
        const { program: compiled, kv } = pair[0]!;
        const bad: Record<string, { rows: number; call?: KvGroup; more?: KvGroup; want: RegExp }> = {
          "no KV call": { rows: 1, want: /KV/ },
          "past beyond the context": { rows: 1, call: prefill(0, 80, 1), want: /context of 80/ },
          "slot beyond the cache": { rows: 1, call: prefill(4, 0, 1), want: /slots/ },
          "rows that do not match": { rows: 2, call: prefill(0, 0, 1), want: /rows/ },
          "a group without rows": { rows: 1, call: prefill(0, 0, 1), more: prefill(1, 0, 0), want: /no rows/ },
          "a slot in two groups": { rows: 2, call: prefill(0, 0, 1), more: prefill(0, 1, 1), want: /slot 0 is in two groups/ },
          "past of another length": { rows: 2, call: { firstSlot: 0, batch: 2, tokens: 1, past: Int32Array.of(0) }, want: /past/ },
        };
        for (const [name, { rows, call, more, want }] of Object.entries(bad)) {
          const running = compiled.run(x(1, rows, program.hidden), call && { cache: kv, groups: [call, ...(more ? [more] : [])] });
          await assert.rejects(running, (error: any) => error.code === "InvalidArgument" && want.test(error.message), name);
        }
        await assert.rejects(kv.copySlot(0, 4, 1), { code: "InvalidArgument" });
        await assert.rejects(kv.copySlot(0, 1, 81), { code: "InvalidArgument" });
      });
    });

    check("bad weights and inputs are refused by name, and the backend works on", async () => {
      const weights = model.expert(0, 0);
      const { w1, ...without } = weights;
      const refused = (want: RegExp) => (error: any) => error.code === "InvalidArgument" && want.test(error.message);
      await assert.rejects(backend.compile(expertSegment, without), refused(/w1/));
      await assert.rejects(backend.compile(expertSegment, { ...weights, w1: weights.w2! }), refused(/w1/));
      const expert = await backend.compile(expertSegment, weights);
      await assert.rejects(expert.run({}), refused(/x/));
      await assert.rejects(expert.run({ x: { shape: [1, 3], data: new Float32Array(3) } }), refused(/x/));
      await assert.rejects(expert.run({ x: { shape: [1, 64], data: new Int32Array(64) } }), refused(/x/));
      const embed = await backend.compile(program.embed, model.weights(program.embed));
      await assert.rejects(embed.run({ ids: { shape: [1], data: Int32Array.of(program.vocab) } }), refused(/ids/));
      assert.equal((await expert.run(x(1, 1, program.hidden))).y?.data.length, program.hidden);
      await expert.dispose();
      await embed.dispose();
      assert.ok(w1);
    });

    check("whole models: logits of prefill and of chunked prefill with decode equal the reference", async () => {
      for (const overrides of [{}, { sliding_window: 5, tie_word_embeddings: true, num_local_experts: 3, num_experts_per_tok: 3 }]) {
        const variant = syntheticModel(overrides);
        const ids = Array.from(gaussian(7, 24), (value) => Math.abs(Math.floor(value * 40)) % 97);
        const [mine, theirs] = await Promise.all([backend, oracle].map((b) => loadModel(b, variant, { context: 32, slots: 2 })));
        const want = await theirs!.forward(ids, 0);
        const whole = await mine!.forward(ids, 0);
        assert.ok(relativeError(whole, want) <= contract.tolerance, `prefill: ${relativeError(whole, want)}`);
        const parts = [];
        for (const [from, to] of [
          [0, 9],
          [9, 22],
          [22, 23],
          [23, 24],
        ] as const) {
          parts.push(...(await mine!.forward(ids.slice(from, to), from, 1)));
        }
        assert.ok(relativeError(parts, want) <= contract.tolerance, `chunks: ${relativeError(parts, want)}`);
        await mine!.dispose();
      }
    });

    if (contract.numericClass !== "exact") return;
    check("a row's bits depend on neither its batch nor its mates", async () => {
      for (const form of ["f32", "iq4_nl"] as const) {
        const expert = await backend.compile(expertSegment, model.expert(0, 2, form));
        const all = x(9, 65, program.hidden).x;
        const whole = keep(await expert.run({ x: all })).y!.data;
        for (const row of [0, 1, 31, 64]) {
          const alone = { shape: [1, program.hidden], data: all.data.slice(row * program.hidden, (row + 1) * program.hidden) };
          const got = (await expert.run({ x: alone })).y!.data;
          assert.deepEqual([...got], [...whole.slice(row * program.hidden, (row + 1) * program.hidden)], `${form} row ${row}`);
        }
        await expert.dispose();
      }
    });
  });
}
