// The choice of the node through which this machine reaches Services: the first one that is on the network.
import { nodeNames } from "./names.ts";
import { routeServices } from "./network.ts";
import { type ClusterState, namesOf } from "./state.ts";

export async function routeToServices(state: ClusterState): Promise<void> {
  const cluster = namesOf(state);
  const way = state.nodes.find(({ power, link }) => power === "on" && link === "up");
  await routeServices(cluster, way && nodeNames(cluster, way.index));
}
