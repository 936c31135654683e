// Load decides where experts are: a skew that stays without the planner, goes with it, and no move when nothing changes.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Load, startLoad } from "../harness/load.ts";
import { sleep, until } from "../harness/process.ts";
import type { Target } from "../harness/product.ts";
import { type Balance, balanceOf, goalPercent, patchRebalancing } from "./balance.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "balance";
const clients = 6;
/** From the first full window of the load. */
const balanceWithinMs = 60_000;
const steadyWindows = 10;
const windowMs = 5_000;
/** The default of spec.rebalancing.budget.maxMoves. */
const movesMax = 64;

let target: Target;

before(async () => {
  target = await openWorld();
});

for (const policy of ["incremental", "hecate"] as const) {
  // A deployment of its own for each policy: both begin with the same placement and the same skew.
  describe(`policy ${policy}`, () => {
    let moe: Deployed;
    let load: Load;
    explainFailures(() => moe);

    before(async () => {
      moe = await deploy(
        target,
        `e2e-rebalance-${policy}`,
        smolMoe(model, { rebalancing: { mode: "Off", policy, interval: "5s", trigger: { window: "10s" } } }),
      );
      const url = await moe.url();
      load = startLoad({ url: () => url, model, clients, topic: "code" });
    });
    after(async () => {
      await load?.stop();
      if (moe) await remove(moe);
    });

    const waitBalanced = (since: Balance): Promise<Balance> => {
      const started = performance.now();
      let last = "";
      return until(
        "the load to be balanced",
        async () => {
          const now = await balanceOf(moe.kubectl, model);
          const line = `epoch ${now.epoch}, worst layer ${now.imbalance}%: ${now.decision}`;
          if (line !== last) process.stderr.write(`# ${((performance.now() - started) / 1000).toFixed(0)} s  ${line}\n`);
          last = line;
          if (now.epoch > since.epoch && now.imbalance !== undefined && now.imbalance <= goalPercent(now)) return now;
          throw new Error(`epoch ${now.epoch}, worst layer ${now.imbalance}%, goal ${goalPercent(now)}%, ${now.reason}`);
        },
        { timeoutMs: balanceWithinMs + 2 * windowMs, everyMs: 1000 },
      );
    };

    /** Plans made while the load stays the same; each would be at least one move. */
    const plansWhileSteady = async (): Promise<number> => {
      const start = await balanceOf(moe.kubectl, model);
      await sleep(steadyWindows * windowMs);
      return (await balanceOf(moe.kubectl, model)).epoch - start.epoch;
    };

    test("with mode Off a skewed load stays skewed", async () => {
      const early = await until(
        "a measured imbalance of at least 150%",
        async () => {
          const now = await balanceOf(moe.kubectl, model);
          if ((now.imbalance ?? 0) >= 150) return now;
          throw new Error(`worst layer ${now.imbalance}%`);
        },
        { timeoutMs: 60_000, everyMs: 1000 },
      );
      if (policy !== "incremental") return; // with mode Off the policy has no part in it: once is enough
      await sleep(4 * windowMs);
      const late = await balanceOf(moe.kubectl, model);
      assert.ok((late.imbalance ?? 0) >= 150, `worst layer went from ${early.imbalance}% to ${late.imbalance}% without the planner`);
      assert.equal(late.epoch, early.epoch);
    });

    test("with mode Auto it is balanced within a minute, within the budget", async () => {
      const before = await balanceOf(moe.kubectl, model);
      await patchRebalancing(moe, model, { mode: "Auto" });
      const done = await waitBalanced(before);
      assert.ok((done.moves ?? 0) <= movesMax, `${done.moves} moves in one plan`);
      assert.equal(load.counts.failed, 0, load.errors[0]);
      process.stderr.write(
        `# ${policy}: worst layer ${before.imbalance}% -> ${done.imbalance}% (bound ${done.bound}%), last plan ${done.moves} moves, ${done.bytes} bytes\n`,
      );
    });

    test("under steady load nothing moves for ten windows", async () => {
      assert.equal(await plansWhileSteady(), 0);
    });

    test("after a switch of topic it is balanced again, and then nothing moves", async () => {
      const before = await balanceOf(moe.kubectl, model);
      await load.switchTo("story");
      const done = await waitBalanced(before);
      process.stderr.write(`# ${policy}: after the switch ${done.imbalance}% (bound ${done.bound}%), last plan ${done.moves} moves\n`);
      assert.equal(await plansWhileSteady(), 0);
      assert.equal(load.counts.failed, 0, load.errors[0]);
    });
  });
}
