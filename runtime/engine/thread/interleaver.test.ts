// Steps that decode between those of prompts: what one that decodes waits for, and that neither kind waits for ever.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stepOf } from "../schedule/step-plan.ts";
import { Interleaver } from "./interleaver.ts";

const waitMs = 20;
const decodeStep = stepOf([], []);
const promptStep = stepOf([], []);

test("a step that decodes waits for prompts as long as it may, or for one graph, and prompts get on after each", async () => {
  const graphs = fc.array(fc.double({ min: 0.5, max: 60, noNaN: true }), { minLength: 1, maxLength: 30 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(graphs, { minLength: 1, maxLength: 6 }),
      fc.double({ min: 1, max: 100, noNaN: true }),
      async (prompts, decodeMs) => {
        let [nowMs, decodedAt, graphsSince, alike] = [1_000, 1_000, 0, true];
        const left = [...prompts];
        let isPrompting = false;
        const run = async (step: unknown): Promise<void> => {
          if (step === decodeStep) {
            const waited = nowMs - decodedAt;
            assert.ok(waited <= waitMs + 1e-9 || graphsSince === 1 || !alike, `${waited} ms, ${graphsSince} graphs`);
            nowMs += decodeMs;
            [decodedAt, graphsSince] = [nowMs, 0];
            return;
          }
          isPrompting = true;
          let last = 0;
          for (const ms of left.shift() ?? []) {
            nowMs += ms;
            graphsSince += 1;
            alike = graphsSince === 1 || ms <= last + 1e-9;
            last = ms;
            await interleaver.between();
          }
          isPrompting = false;
        };
        const batcher = {
          nextPrompts: () => (left.length > 0 && !isPrompting ? promptStep : undefined),
          nextDecodes: () => decodeStep,
        };
        const interleaver = new Interleaver({ batcher, run, waitMs, now: () => nowMs });
        for (let steps = 0; left.length > 0; steps++) {
          assert.ok(steps < 2 * prompts.length + 2, "prompts get on");
          await interleaver.next();
        }
        await interleaver.next();
        assert.equal(graphsSince, 0, "and so do those that decode");
      },
    ),
  );
});

test("an error outside of a step's rows is not taken for the prompt's between whose graphs it came", async () => {
  const fault = new Error("slots are lost");
  const run = async (step: unknown): Promise<void> => {
    if (step === decodeStep) throw fault;
    await interleaver.between()?.catch(() => {}); // as a step takes errors of its rows
  };
  let nowMs = 0;
  const batcher = { nextPrompts: () => promptStep, nextDecodes: () => decodeStep };
  const interleaver = new Interleaver({ batcher, run, waitMs, now: () => (nowMs += waitMs + 1) });
  await interleaver.next();
  assert.throws(() => interleaver.next(), fault);
});

test("a block of KV moves between graphs of a prompt, and no step begins meanwhile", async () => {
  const seen: string[] = [];
  let moving = false;
  const move = async (): Promise<void> => {
    moving = true;
    await interleaver.between(); // as of the other half of the step
    await Promise.resolve();
    moving = false;
    seen.push("moved");
  };
  let [nowMs, prompts] = [0, false];
  const run = async (step: unknown): Promise<void> => {
    assert.ok(!moving, "a step begins");
    seen.push(step === promptStep ? "prompt" : "decode");
    if (step !== promptStep) return void (await interleaver.between());
    for (const ms of [1, 2 * waitMs]) {
      nowMs += ms;
      await interleaver.between();
    }
  };
  const batcher = { nextPrompts: () => (prompts ? promptStep : undefined), nextDecodes: () => decodeStep };
  const interleaver: Interleaver = new Interleaver({ batcher, run, move, waitMs, now: () => nowMs });
  await interleaver.next();
  prompts = true;
  await interleaver.next();
  assert.deepEqual(seen, ["decode", "prompt", "moved", "decode"]);
});
