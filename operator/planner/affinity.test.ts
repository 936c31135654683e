// ExFlow and MoETuner against optima: HiGHS on programs written from the papers (test/kit/planner/affinity-programs.ts) where it
// proves them, planted placements where instances are too large for that; and a trace without affinity as negative control.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Chain, clusterChain, hops, leastHops, leastSpread, spread } from "../../test/kit/planner/affinity-programs.ts";
import { policies } from "./index.ts";
import { rankSpecs } from "./offline/simulate.ts";
import { generateTrace, plantTransitions, presets } from "./offline/traces-generate.ts";
import { type PlanInput, unlimited } from "./policy.ts";

interface Instance {
  readonly chain: Chain & { readonly flow: Float64Array };
  readonly input: PlanInput;
}

function instance(size: Omit<Chain, "flow">, affinity: number, seed: number): Instance {
  const { layers, experts, ranks } = size;
  const model = { ...presets.mixtral_32x8, layers, experts, windows: 1, selections: 5000 };
  const trace = plantTransitions(generateTrace("small", model, seed), affinity, 250 * experts, seed + 1);
  const transitions = Float64Array.from(trace.transitions ?? []);
  const bytes = new Float64Array(layers * experts).fill(1);
  const input: PlanInput = {
    shape: { layers, experts, residentBytes: bytes, storedBytes: bytes },
    ranks: rankSpecs({ ranks }),
    load: Float64Array.from(trace.counts),
    current: undefined,
    budget: unlimited,
    minExpertReplicas: 1,
    split: "weighted",
    effort: "quality",
    transitions,
  };
  return { chain: { ...size, flow: transitions }, input };
}

/** Primaries as a policy plans them, from nothing and from dealt primaries. */
async function primaries(name: "exflow" | "moetuner", input: PlanInput): Promise<number[][][]> {
  const { layers: current } = await policies.uniform.plan(input);
  const starts = [undefined, current];
  const plans = await Promise.all(starts.map((from) => policies[name].plan({ ...input, current: from })));
  return plans.map(({ layers }) => layers.map(({ hosts }) => hosts.map((row) => row[0] ?? -1)));
}

const affinities = [0, 0.3, 0.6, 0.9];
const evenEnough = 0.01;

const sizes = [
  [3, 6, 2, 8],
  [3, 6, 3, 8],
  [2, 8, 4, 4],
  [5, 4, 2, 8],
  [4, 6, 2, 8],
] as const;

for (const [layers, experts, ranks, seeds] of sizes) {
  const what = `${layers} layers x ${experts} experts on ${ranks} ranks`;

  test(`ExFlow: hops of ${what} are within 2% of the HiGHS optimum`, async () => {
    for (let seed = 0; seed < seeds; seed++) {
      const { chain, input } = instance({ layers, experts, ranks }, affinities[seed % 4] ?? 0, 100 + 10 * seed);
      const best = await leastHops(chain);
      assert.ok(best !== undefined, "HiGHS proves it");
      for (const places of await primaries("exflow", input)) {
        const found = hops(chain, places);
        assert.ok(found <= 1.02 * best + 1e-6, `seed ${seed}: ${found} hops, ${best} at best`);
        assert.ok(found >= best - 1e-3, `seed ${seed}: ${found} hops are fewer than what was proven, ${best}`);
      }
    }
  });

  test(`MoETuner: both objectives of ${what} are within 2% of the HiGHS optimum`, async () => {
    for (let seed = 0; seed < seeds; seed++) {
      const { chain, input } = instance({ layers, experts, ranks }, affinities[seed % 4] ?? 0, 500 + 10 * seed);
      const [places = []] = await primaries("moetuner", input);
      for (const [l, clusters] of places.entries()) {
        const tokens = input.load.subarray(l * experts, (l + 1) * experts);
        const best = await leastSpread(tokens, ranks);
        assert.ok(best !== undefined, "HiGHS proves it");
        const found = spread(tokens, clusters, ranks);
        // For clusters that are even to a hundredth, 2% is less than a token.
        assert.ok(found <= Math.max(1.02 * best, evenEnough), `seed ${seed}, layer ${l}: ${found}, ${best} at best`);
        assert.ok(found >= best - 1e-6, `seed ${seed}, layer ${l}: ${found} is less than what was proven, ${best}`);
      }
      const least = await leastHops(clusterChain(chain, places));
      assert.ok(
        least !== undefined && hops(chain, places) <= 1.02 * least + 1e-6,
        `seed ${seed}: ${hops(chain, places)} hops, ${least} at best`,
      );
    }
  });
}

for (const [layers, experts, ranks] of [
  [12, 16, 4],
  [32, 8, 4],
  [8, 32, 8],
  [6, 64, 8],
] as const) {
  test(`ExFlow: hops of ${layers} layers x ${experts} experts on ${ranks} ranks are within 2% of a placement that follows what was planted`, async () => {
    for (const affinity of [0.6, 0.9]) {
      const { chain, input } = instance({ layers, experts, ranks }, affinity, 7);
      const follower = (l: number, i: number): number => {
        const row = chain.flow.slice((l * experts + i) * experts, (l * experts + i + 1) * experts);
        return row.indexOf(Math.max(...row));
      };
      const planted = [Array.from({ length: experts }, (_, e) => e % ranks)];
      for (let l = 0; l + 1 < layers; l++) {
        const row = new Array<number>(experts).fill(-1);
        planted[l]?.forEach((g, i) => void row.splice(follower(l, i), 1, g));
        assert.ok(!row.includes(-1), "each expert follows one");
        planted.push(row);
      }
      for (const places of await primaries("exflow", input))
        assert.ok(hops(chain, places) <= 1.02 * hops(chain, planted), `${hops(chain, places)} hops, ${hops(chain, planted)} as planted`);
    }
  });
}

test("planted affinity lets both policies save hops, and nearly none are to be had, by anyone, without it", async () => {
  const saved = async (name: "exflow" | "moetuner", affinity: number): Promise<number> => {
    const { chain, input } = instance({ layers: 12, experts: 8, ranks: 4 }, affinity, 3);
    const { layers } = await policies.uniform.plan(input);
    const dealt = hops(
      chain,
      layers.map(({ hosts }) => hosts.map((row) => row[0] ?? -1)),
    );
    const [places = []] = await primaries(name, input);
    return 1 - hops(chain, places) / dealt;
  };
  assert.ok((await saved("exflow", 0.8)) > 0.4);
  assert.ok((await saved("moetuner", 0.8)) > 0.15);
  for (const name of ["exflow", "moetuner"] as const) assert.ok((await saved(name, 0)) < 0.1);
  const { chain, input } = instance({ layers: 3, experts: 6, ranks: 3 }, 0, 3);
  const [places = []] = await primaries("exflow", input);
  assert.ok(((await leastHops(chain)) ?? 0) > 0.98 * hops(chain, places));
});
