// Tests of one policy on the cluster: a skew stays without the planner, goes with it, and nothing moves when nothing changes. The rows
// that ranks compute are counted here, from what they report; the operator's own figures are not asked.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Target } from "../kit/deployment/product.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import { until } from "../kit/processes/process.ts";
import { goalOf, patchRebalancing } from "./balance.ts";
import { explainFailures } from "./diagnose.ts";
import { LoadWatch, type Served } from "./load-watch.ts";
import { PlacementWatch } from "./watch-placement.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "balance";
const clients = 6;
/** A window lasts until it has enough selections, up to four times as long; shorter ones are looked at more often, and chance moves. */
const windowMs = 5_000;
/** Windows of the planner from the first full one of the load to the last commit. */
const balanceWithin = 12;
const windowSelections = 1_000;
const windowStretchMax = 4;
/** Enough of any machine: the limits above are counted in windows and selections. */
const patienceMs = 300_000;
/** Windows after the last commit in which nothing may move: ten for a policy, which sees two loads. */
const steadyWindows = 5;
/** The cap on moves, given in the spec so that a change of load does not raise it. */
const movesMax = 64;
const skewed = 1.5;
/** Selections per layer over which an even placement is judged at last, and of a look: a skew is plain to see. */
const selectionsMin = 5_000;
const selectionsOfALook = 2_000;

interface Row {
  readonly policy: string;
  readonly load: string;
  readonly before: string;
  readonly after: string;
  readonly goal: string;
  readonly selections: number;
  readonly seconds: string;
  readonly plans: number;
  readonly moves: number;
}

export function testPolicy(policy: "incremental" | "hecate"): void {
  let target: Target;
  before(async () => {
    target = await openWorld();
  });

  describe(`policy ${policy}`, () => {
    let moe: Deployed;
    let load: Load;
    let placement: PlacementWatch;
    let reported: LoadWatch;
    explainFailures(() => moe);

    before(async () => {
      // Windows as short as those in which nothing may move. One holds two or three requests of this load, so a plan rests on several:
      // as many as the default of minTokens asks for.
      const trigger = { window: `${windowMs / 1000}s` };
      moe = await deploy(
        target,
        `e2e-rebalance-${policy}`,
        smolMoe(model, { rebalancing: { mode: "Off", policy, interval: `${windowMs / 1000}s`, trigger, budget: { maxMoves: movesMax } } }),
      );
      placement = new PlacementWatch(moe);
      reported = await LoadWatch.open(moe);
      const url = await moe.url();
      load = startLoad({ url: () => url, model, clients, topic: "code" });
    });
    after(async () => {
      await load?.stop();
      await reported?.close();
      await placement?.close();
      if (moe) await remove(moe);
    });

    const over = (selections: number, from: number): Promise<Served> =>
      until(
        `${selections} selections per layer`,
        () => {
          const served = reported.served(from);
          return served.selections >= selections ? served : undefined;
        },
        { timeoutMs: patienceMs, everyMs: 500 },
      );
    /** Windows that the planner saw between two moments: of 5 s each, or of enough selections where that takes up to four times longer. */
    const windowsIn = (from: number, to: number): number => {
      const ofTime = (to - from) / windowMs;
      return Math.min(ofTime, Math.max(ofTime / windowStretchMax, reported.served(from, to).selections / windowSelections));
    };
    const goal = async (): Promise<number> => goalOf((await moe.kubectl.get("moed", model)).status?.placement?.boundPercent, policy);

    /** What ranks served since a moment, once that is enough to judge and even; until then an error that says how uneven it is. */
    async function even(from: number, enough: number): Promise<Served> {
      const served = reported.served(from);
      if (served.selections >= enough && served.worst <= (await goal())) return served;
      throw new Error(`worst layer ${served.worst.toFixed(2)} of ${served.selections} selections, goal ${await goal()}`);
    }

    /** Waits for a commit after epoch `parent` that leaves the load even. */
    const evenAfter = (parent: number): Promise<{ readonly epoch: number; readonly committed: number }> =>
      until(
        "the load to be balanced",
        async () => {
          const { epoch } = placement;
          const committed = epoch > parent ? placement.committedAt(epoch) : undefined;
          if (committed === undefined) throw new Error(`epoch ${epoch}: ${placement.latest?.status.phase}`);
          await even(committed, selectionsOfALook);
          return { epoch, committed };
        },
        { timeoutMs: patienceMs, everyMs: 500 },
      );

    /**
     * The commit after which the load is even and nothing moves, and what was served since. A plan made of a load that was still
     * turning may be refined by a later one, and a few requests weigh as more than their share until others have come; the last
     * commit is within the twelve windows too, so the looks end with them.
     */
    async function settled(since: number, parent: number): Promise<{ readonly committed: number; readonly steady: Served }> {
      for (let from = parent; ; ) {
        const { epoch, committed } = await evenAfter(from);
        const taken = windowsIn(since, committed);
        const late = `epoch ${epoch} committed ${taken.toFixed(1)} windows, ${committed - since} ms, after the load began`;
        assert.ok(taken <= 1 + balanceWithin, `${late}: ${placement.latest?.status.reason}`);
        const looks = { timeoutMs: patienceMs, everyMs: 500 };
        const look = async (): Promise<Served | "moved" | undefined> => {
          if (placement.epoch > epoch) return "moved";
          return windowsIn(committed, Date.now()) >= steadyWindows ? await even(committed, selectionsMin) : undefined;
        };
        const steady = await until("an even load and windows without a move", look, looks);
        if (steady !== "moved") return { committed, steady };
        from = epoch;
      }
    }

    /** Waits until the load is even and stays so without a move, and adds what it took to the table. `parent`: the epoch before. */
    async function balanced({ since, parent, name, skew }: { since: number; parent: number; name: string; skew: Served }): Promise<void> {
      const { committed, steady } = await settled(since, parent);
      const moves = placement.plansSince(parent).map((plan) => plan.moves.length);
      for (const each of moves) assert.ok(each <= movesMax, `${each} moves in one plan`);
      assert.equal(load.counts.failed, 0, load.errors[0]);
      print({
        ...{ policy, load: name, before: skew.worst.toFixed(2), after: steady.worst.toFixed(2), goal: (await goal()).toFixed(2) },
        ...{ selections: steady.selections, seconds: ((committed - since) / 1000).toFixed(0) },
        ...{ plans: moves.length, moves: moves.reduce((a, b) => a + b, 0) },
      });
    }

    let skew: Served;
    test("with mode Off a skewed load stays skewed", async () => {
      const from = Date.now();
      skew = await over(selectionsOfALook, from);
      assert.ok(skew.worst >= skewed, `worst layer ${skew.worst}`);
      if (policy !== "incremental") return; // with mode Off the policy has no part in it: once is enough
      const later = await over(selectionsOfALook, Date.now());
      assert.ok(later.worst >= skewed, `worst layer went from ${skew.worst} to ${later.worst} without the planner`);
      assert.equal(placement.epoch, 1);
    });

    test("with mode Auto it is balanced within twelve windows and within the budget, and then nothing moves", async () => {
      const since = Date.now();
      await patchRebalancing(moe, model, { mode: "Auto" });
      await balanced({ since, parent: 1, name: "code", skew });
    });

    test("after a switch of topic the same again", async () => {
      const { epoch: parent } = placement;
      const seen = placement.seen.length;
      const asked = Date.now();
      await load.switchTo("story");
      const since = Date.now();
      const planned = await placement.next("a plan for the new load", ({ epoch }) => epoch > parent, patienceMs, seen);
      const committed = await until("its commit", () => placement.committedAt(planned.epoch), { timeoutMs: patienceMs });
      // The experts are where the old load wanted them until then. The first clients turn while the last still read old answers,
      // and on a busy machine the plan may be there before those end.
      const turned = reported.served(asked, committed);
      assert.ok(turned.worst > (await goal()), `worst layer ${turned.worst} of ${turned.selections} selections: the load did not turn`);
      await balanced({ since, parent, name: "story", skew: turned });
    });
  });
}

function print(row: Row): void {
  const cells = Object.entries(row).map(([name, value]) => `${name} ${value}`);
  process.stderr.write(`# ${cells.join(", ")}\n`);
}
