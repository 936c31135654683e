// EvoMoE: experts that spawn of one, each with a fifth of its weights masked, and are trained by a gate that falls from all to two, have a
// lower loss than the one would have had; those without a mask gain less than half of it, since they learn much the same.
import assert from "node:assert/strict";
import { chainedData, meanOf, modelOf, run, testOfSeeds } from "../../../test/kit/training/recipe-runs.ts";
import { parseRecipes } from "./index.ts";

const data = await chainedData();
const [steps, born, sparse] = [120, 40, 80];
const small = { num_hidden_layers: 2, initializer_range: 0.1, intermediate_size: 16 };
const many = modelOf("mixtral", { ...small, num_local_experts: 8, num_experts_per_tok: 2 });
const single = modelOf("mixtral", { ...small, num_local_experts: 1, num_experts_per_tok: 1 });
const schedule = { name: "cosine", rate: 3e-3, warmup: 5, steps, floor: 0.1 } as const;

testOfSeeds(
  "experts that spawn masked have a lower loss than the one that they are born of, and than those without a mask",
  async (seed, t) => {
    const spawnedWith = (mask: string) => {
      const recipes = parseRecipes({ balance: "switch:0.01", spawn: `${born}:${mask}`, gate: `dense-to-sparse:4:0.1:${sparse}` });
      return run({ model: many, data, seed, schedule, recipes });
    };
    const one = await run({ model: single, data, seed, schedule });
    const copies = await spawnedWith("0");
    const masked = await spawnedWith("0.2");
    const [own, control] = [masked.loss / one.loss, copies.loss / one.loss];
    t.diagnostic(`${one.loss.toFixed(3)}; masked ${own.toFixed(4)}, without a mask ${control.toFixed(4)}`);
    assert.ok(own <= 0.993, `masked ${own}`);
    assert.ok(control >= 0.9935, `without a mask ${control}`);
    assert.ok(masked.loss <= 0.998 * copies.loss, `${masked.loss / copies.loss} of those without`);

    // A token has one expert, then most, fewer and fewer of them, and two in the end.
    const experts = masked.reports.map(({ tokens, expertRows }) => expertRows / (tokens * small.num_hidden_layers));
    assert.ok(experts.slice(0, born).every((count) => count === 1));
    const falling = [0, 1, 2, 3].map((part) => meanOf(experts.slice(born + 10 * part, born + 10 * (part + 1))));
    assert.ok((falling[0] as number) >= 6, `${falling}`);
    for (const [i, count] of falling.entries()) assert.ok(i === 0 || count < (falling[i - 1] as number), `${falling}`);
    assert.ok(experts.slice(sparse).every((count) => count === 2));
  },
);
