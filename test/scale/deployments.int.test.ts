// The short form of `npm run test:scale`: a few deployments on simulated nodes. It holds what grows with their number to a bound per
// deployment, which does not depend on how busy the machine is.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { down } from "../cluster/cluster.ts";
import { runDeployments } from "./deployments.ts";
import { fleetName } from "./fleet.ts";

/** Objects, certificates, plan, status and events of a deployment of 3 ranks; a status that is written for no news soon exceeds it. */
const writesMax = 75;
const steadyWritesMax = 0.1;

after(() => down(fleetName));

test("deployments of simulated ranks come to serve with few requests, and cost few while nothing changes", { timeout: 180_000 }, async (t) => {
  const shape = { deployments: 3, ranks: 3, layers: 4, experts: 8 };
  const row = await runDeployments({ ...shape, steadySeconds: 10, changes: 1, log: (line) => t.diagnostic(line) });
  assert.ok(row.writesPerDeployment <= writesMax, `${row.writesPerDeployment} writes for each deployment`);
  assert.ok(row.writesPerDeployment >= 3 + 3, "pods and their certificates are among them");
  const steady = row.steadyStatusWritesPerSecond / shape.deployments;
  assert.ok(steady <= steadyWritesMax, `${steady} status writes a second for each deployment`);
});
