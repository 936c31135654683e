// Widths by MC-MoE's rules are those that counting all of them finds, on instances of our own, and its authors' files are read.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../../runtime/kernels/random.ts";
import { questionsOf } from "./models.ts";
import { unpickled } from "./pickle.ts";
import { costsOf, solved, widths } from "./published.ts";

/** The least cost where at least one expert has 3 bits and one 2, by counting. */
function counted(costs: readonly (readonly number[])[], bits: number): number {
  let best = Number.POSITIVE_INFINITY;
  for (let n = 0; n < 3 ** costs.length; n++) {
    const chosen = costs.map((_, i) => Math.floor(n / 3 ** i) % 3);
    if (!chosen.includes(2) || !chosen.includes(1)) continue;
    if (chosen.reduce((sum, choice) => sum + widths[choice]!, 0) > bits) continue;
    const cost = chosen.reduce((sum, choice, i) => sum + costs[i]![choice]!, 0);
    best = Math.min(best, cost);
  }
  return best;
}

test("the least cost within a block's bits, with one expert at least of each larger width", () => {
  const draw = uniform(7);
  for (let instance = 0; instance < 40; instance++) {
    const experts = 6;
    const drawn = (): number[] => Array.from({ length: experts }, () => 1 + 9 * draw());
    // Some lose more at more bits, so that a width is there by the rule alone.
    const errors = drawn().map((one) => [one, one * (0.2 + draw()), one * (0.1 + draw())]);
    const costs = costsOf({ counts: drawn(), weights: drawn(), errors });
    for (let bits = 6; bits <= 3 * experts; bits++) {
      const found = solved(costs, bits);
      const want = counted(costs, bits);
      if (want === Number.POSITIVE_INFINITY) assert.equal(found, undefined);
      else assert.ok(Math.abs(found!.reduce((sum, choice, i) => sum + costs[i]![choice]!, 0) - want) < 1e-12 * want);
    }
  }
});

test("a cost is the share of rows times that of weights to the power of 1.5 times the error", () => {
  const [[cost = 0] = []] = costsOf({ counts: [1, 3], weights: [4, 12], errors: [[8], [1]] });
  assert.ok(Math.abs(cost - 0.25 * 0.125 * 8) < 1e-12);
});

/** `{0: tensor([1.5, -2.0]), 1: {2: 0.25}}` as Python writes it. */
function pickled(call = "_load_from_bytes"): Buffer {
  const text = (of: string): Buffer => Buffer.concat([Buffer.from([0x8c, of.length]), Buffer.from(of), Buffer.from([0x94])]);
  const storage = Buffer.alloc(11);
  storage.writeFloatLE(1.5, 3);
  storage.writeFloatLE(-2, 7);
  const double = Buffer.alloc(8);
  double.writeDoubleBE(0.25);
  return Buffer.concat([
    ...[
      Buffer.from([0x80, 4, 0x7d, 0x94, 0x28, 0x4b, 0]),
      text("torch._utils"),
      text("_rebuild_tensor_v2"),
      Buffer.from([0x93, 0x94, 0x28]),
    ],
    ...[
      text("torch.storage"),
      text(call),
      Buffer.from([0x93, 0x94, 0x42, 11, 0, 0, 0]),
      storage,
      Buffer.from([0x94, 0x85, 0x94, 0x52, 0x94]),
    ],
    ...[
      Buffer.from([0x4b, 0, 0x4b, 2, 0x85, 0x4b, 1, 0x85, 0x89]),
      text("collections"),
      text("OrderedDict"),
      Buffer.from([0x93, 0x29, 0x52]),
    ],
    ...[Buffer.from([0x74, 0x94, 0x52, 0x4b, 1, 0x7d, 0x28, 0x4b, 2, 0x47]), double, Buffer.from([0x75, 0x75, 0x2e])],
  ]);
}

test("dictionaries of numbers and small tensors are read from a pickle, and nothing is called", () => {
  assert.deepEqual(
    unpickled(pickled()),
    new Map<number, unknown>([
      [0, [1.5, -2]],
      [1, new Map([[2, 0.25]])],
    ]),
  );
  assert.throws(() => unpickled(pickled("system")), /it calls torch\.storage\.system/);
  assert.throws(() => unpickled(pickled().subarray(0, 60)), /it ends too early/);
  assert.throws(() => unpickled(Buffer.from([0x80, 4, 0x63])), /it has opcode 99/);
});

test("a question goes on as the text does, and its other answers are of elsewhere", () => {
  const text = Array.from({ length: 20 }, (_, i) => `sentence number ${i} of the text, which is long enough to be asked for and to go on.`);
  const questions = questionsOf(text.join(" "), 100).map((line) => JSON.parse(line));
  assert.equal(questions.length, 19);
  for (const [i, { prompt, choices, answer }] of questions.entries()) {
    assert.ok(text[i]!.endsWith(prompt));
    assert.ok(text[i + 1]!.startsWith(choices[answer].trim()));
    assert.equal(new Set(choices).size, 4);
  }
});
