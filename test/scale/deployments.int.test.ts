// The short form of `npm run test:scale`: a few deployments on simulated nodes. It holds what grows with their number to a bound for each,
// which does not depend on how busy the machine is.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { down } from "../cluster/cluster.ts";
import { runDeployments } from "./deployments.ts";
import { fleetName } from "./fleet.ts";

/** Objects, certificates, plan, statuses and events of a deployment of 3 ranks take 50; a status written for no news exceeds this. */
const writesMax = 75;

after(() => down(fleetName));

test("deployments on simulated nodes come to serve, with few requests, and grow by a rank", { timeout: 180_000 }, async (t) => {
  const shape = { deployments: 3, atOnce: 3, ranks: 3, layers: 4, experts: 8 };
  const row = await runDeployments({ ...shape, settleSeconds: 1, steadySeconds: 1, changes: 1, log: (line) => t.diagnostic(line) });
  assert.ok(row.writesPerDeployment <= writesMax, `${row.writesPerDeployment} writes for each deployment`);
  assert.ok(row.writesPerDeployment >= 3 + 3, "pods and their certificates are among them");
  assert.ok((row.changeSeconds ?? 0) > 0 && row.convergeCpuSeconds > 0 && row.rssMiB > 0);
});
