// The configuration of a gateway on loopback, and a gateway before the ranks of a test.
import { type Gateway, type GatewayConfig, type GatewayOverrides, startGateway } from "../../../runtime/gateway/gateway.ts";
import { silentLog } from "../../../runtime/observe/log.ts";
import { deployment, deploymentUid, namespace, type Ranks } from "../ranks/ranks.ts";
import { until } from "../wait.ts";

export const localGateway = {
  ...{ podName: "gw", podUid: "gw", servedName: "tiny", textDir: "", tlsDir: "", maxContext: 256 },
  ...{ httpPort: 0, grpcPort: 0, metricsPort: 0, probePort: 0, host: "127.0.0.1", logLevel: "silent" as const, version: "0" },
};

/** It learns its ranks from each other; its caller closes it. Where it does not start, the ranks are closed, so that the test ends. */
export async function gatewayOfRanks(
  ranks: Ranks,
  config: Partial<GatewayConfig> = {},
  overrides: GatewayOverrides = {},
): Promise<Gateway> {
  await using opened = new AsyncDisposableStack();
  opened.defer(() => ranks.close());
  const peers = async () => [...ranks.byRank.keys()].map((rank) => ranks.address(rank));
  const gateway = await startGateway(
    { ...localGateway, namespace, deployment, deploymentUid, ...config },
    { tls: ranks.ca.issue("gateway", namespace, deployment), log: silentLog, peers, ...overrides },
  );
  opened.defer(() => gateway.close(0));
  await until("peers told the membership", () => gateway.health.reasons().length === 0);
  opened.move();
  return gateway;
}
