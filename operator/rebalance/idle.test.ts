// A deployment to which nothing happens but its load is looked at seldom, and often again when something does.
import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "../../test/sim/cluster.ts";
import { DeploymentLoop } from "./loop.ts";

const minuteMs = 60_000;

test("an idle deployment is looked at once a second, one with a rank that leaves many times", async (t) => {
  const { tick } = DeploymentLoop.prototype;
  let looks = 0;
  t.mock.method(DeploymentLoop.prototype, "tick", function (this: DeploymentLoop) {
    looks += 1;
    tick.call(this);
  });
  const sim = new SimCluster({ ranks: 3 });
  sim.demand = () => new Array<number>(8).fill(200);
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()));
  await sim.clock.run(minuteMs); // what was begun ends
  looks = 0;
  await sim.clock.run(minuteMs);
  // Windows end and their messages come meanwhile, which ask for looks of their own.
  assert.ok(looks >= 55 && looks <= 80, `${looks} looks in an idle minute`);
  looks = 0;
  sim.kube.leaving = [{ rank: 2, podUid: sim.worker(2).podUid, reason: "Shrink" }];
  sim.refresh();
  await sim.clock.run(5_000);
  assert.ok(looks >= 15, `${looks} looks in 5 s of a shrink`);
  assert.deepEqual(sim.faults(), []);
});
