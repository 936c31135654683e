// Recipes as a run asks for them: what each line reads as, that it is written the same again, and what is refused by option and remedy.
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkRecipes, parseRecipes, recipeTexts, usageOf } from "./index.ts";
import { type RecipeOption, recipeOptions } from "./recipe.ts";

const read: readonly (readonly [RecipeOption, string, readonly (readonly [string, object])[]])[] = [
  ["balance", "", []],
  [
    "balance",
    "switch:0.003, device:0.05:4",
    [
      ["switch", { rate: 0.003 }],
      ["device", { rate: 0.05, groups: 4 }],
    ],
  ],
  ["adapters", "mixlora:8:2:16", [["mixlora", { experts: 8, topk: 2, rank: 16 }]]],
  ["spawn", "20:0.5", [["spawn", { step: 20, mask: 0.5 }]]],
  ["gate", "dense-to-sparse:4:0.05:20", [["dense-to-sparse", { temperature: 4, threshold: 0.05, step: 20 }]]],
  ["local", "fedavg:5", [["fedavg", { steps: 5 }]]],
  ["local", "fedspeed: 20:0.5:0", [["fedspeed", { steps: 20, lambda: 0.5, rho: 0 }]]],
];

for (const [option, text, want] of read)
  test(`--${option} "${text}" is read, and written as it was`, () => {
    const found = parseRecipes({ [option]: text });
    assert.deepEqual(
      found,
      want.map(([name, numbers]) => ({ name, numbers })),
    );
    assert.equal(recipeTexts(found)[option], text.replaceAll(" ", "") || "none");
  });

const refused: readonly (readonly [RecipeOption, string, RegExp])[] = [
  ["balance", "toString:0.1", /--balance is "toString:0.1"; known are switch:RATE, device:RATE:GROUPS, bias:RATE/],
  ["balance", "fedavg:2", /known are switch:RATE/],
  ["balance", "switch", /--balance is "switch"; it is written as switch:RATE/],
  ["balance", "switch:much", /it is written as/],
  ["balance", "switch:0.1:4", /it is written as/],
  ["balance", "device:0.1", /it is written as/],
  ["balance", "bias:0", /--balance is "bias:0"; RATE must be above 0 and at most 1/],
  ["balance", "device:0.1:1.5", /GROUPS must be a whole number from 1 to 4096/],
  ["balance", "switch:0.1,switch:0.2", /switch stands there twice; leave one out/],
  ["adapters", "lora:8", /--adapters is "lora:8"; known are mixlora:EXPERTS:TOPK:RANK/],
  ["adapters", "mixlora:8:2", /it is written as mixlora:EXPERTS:TOPK:RANK/],
  ["adapters", "mixlora:1:1:4", /EXPERTS must be a whole number from 2 to 256/],
  ["adapters", "mixlora:8:2.5:4", /TOPK must be a whole number/],
  ...["20", "20:", ":0.5", "a:b", "1:2:3"].map((text) => ["spawn", text, /it is written as STEP:MASK/] as const),
  ["spawn", "2:1", /--spawn is "2:1"; MASK must be from 0 to below 1/],
  ["gate", "soft", /known are dense-to-sparse:TEMPERATURE:THRESHOLD:STEP/],
  ...["dense-to-sparse", "dense-to-sparse:1:2", "dense-to-sparse:a:0:3", "dense-to-sparse::0:3"].map(
    (text) => ["gate", text, /it is written as dense-to-sparse:TEMPERATURE:THRESHOLD:STEP/] as const,
  ),
  ["gate", "dense-to-sparse:0.5:0:3", /TEMPERATURE must be from 1/],
  ["local", "toString:3", /--local is "toString:3"; known are fedavg:STEPS, fedspeed:STEPS:LAMBDA:RHO/],
  ...["fedavg", "fedavg:3:1", "fedspeed:3:1", "fedavg:", "fedspeed:3:1:x"].map(
    (text) => ["local", text, /it is written as fedavg/] as const,
  ),
  ...["fedavg:0", "fedavg:1.5"].map((text) => ["local", text, /STEPS must be a whole number from 1 to 10000/] as const),
  ["local", "fedspeed:3:0:0", /LAMBDA must be above 0 and at most 100/],
  ["local", "fedspeed:3:1:2", /RHO must be from 0 to 1/],
  ["local", "fedavg:2,fedavg:3", /it is written as/],
];

for (const [option, text, message] of refused)
  test(`--${option} "${text}" is refused by option and remedy`, () =>
    assert.throws(() => parseRecipes({ [option]: text }), { code: "BadOption", message }));

const run = { steps: 6, init: "random", everySteps: 6, shadow: false };
const unsuited: readonly (readonly [Partial<Record<RecipeOption, string>>, Partial<typeof run>, RegExp])[] = [
  [{ spawn: "6:0" }, {}, /--spawn is "6:0"; STEP must be from 1 to below --steps \(6\)/],
  [{ spawn: "2:0" }, { init: "checkpoint" }, /give --init random/],
  [{ spawn: "2:0", adapters: "mixlora:2:1:2" }, {}, /leave one of the two out/],
  [{ gate: "dense-to-sparse:4:0.1:3", adapters: "mixlora:2:1:2" }, {}, /--gate is .*leave one of the two out/],
  [{ gate: "dense-to-sparse:4:0.1:3", spawn: "3:0" }, {}, /--gate is "dense-to-sparse:4:0.1:3"; STEP must be above that of --spawn, 3/],
  [{ gate: "dense-to-sparse:4:0.1:7" }, {}, /STEP must be at most --steps \(6\), since/],
  [{ adapters: "mixlora:2:3:2" }, {}, /TOPK must be at most EXPERTS, 2/],
  [{ local: "fedavg:5" }, {}, /--local is "fedavg:5"; --steps is 6; it must be a multiple of 5/],
  [{ local: "fedavg:3" }, { everySteps: 4 }, /--checkpoint-every is 4; it must be a multiple of 3/],
  [{ local: "fedavg:3" }, { shadow: true }, /shadows are of no use/],
  [{ local: "fedavg:3", spawn: "3:0" }, {}, /do not go together/],
];

for (const [texts, changed, message] of unsuited)
  test(`${JSON.stringify(texts)} is refused in a run of ${JSON.stringify(changed)}`, () =>
    assert.throws(() => checkRecipes(parseRecipes(texts), { ...run, ...changed }), { code: "BadOption", message }));

test("each option has a usage", () => {
  for (const option of recipeOptions) assert.match(usageOf(option), /^[a-z-]*:?[A-Z]+/);
});
