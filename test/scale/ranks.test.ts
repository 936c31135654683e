// The contract of a rank (test/contract/rank.ts) for those of the node simulator.

import { loadEveryMs, place, rankContract } from "../contract/rank.ts";
import { telemetryKey } from "../kit/ranks/telemetry-keys.ts";
import { rankModel, startRank } from "./ranks.ts";

const bytes = 1_000;
const model = rankModel({ layers: 3, experts: 8, bytes, budgetBytes: 3 * 8 * bytes });

rankContract({
  name: "simulated rank",
  open: async ({ tls, bus }) => {
    const telemetry = { bus, prefix: "enodia", windowMs: loadEveryMs, signingKey: async () => telemetryKey(1) };
    const pod = { rank: 0, podName: "rank-0", podUid: "uid-0" };
    const rank = await startRank({ ...place, ...pod, host: "127.0.0.1", grpcPort: 0, tls, model, telemetry });
    return { identity: rank.identity, grpcPort: rank.grpcPort, hidden: model.info.hidden, close: () => rank.kill() };
  },
});
