// Builds the world that the rebalance plane gets. Pure.
import { living, type Snapshot } from "./snapshot.ts";
import type { World } from "./world.ts";

export function worldOf(snapshot: Snapshot, known: Pick<World, "desiredRanks" | "gateways"> & { readonly holdMs: number }): World {
  const { desiredRanks, gateways, holdMs } = known;
  const { metadata, spec } = snapshot.deployment;
  const { namespace, name, uid, generation } = metadata;
  return {
    ref: { namespace, name },
    uid,
    generation,
    spec,
    desiredRanks,
    workers: snapshot.pods.filter((pod) => !pod.terminal),
    gateways,
    holdMs,
    leaving: living(snapshot.pods).flatMap((pod) => {
      // Whoever deleted it, its processes hand over until the grace period ends.
      const gone = desiredRanks === 0 ? ("Stop" as const) : ("Evict" as const);
      const reason = pod.leaving?.reason ?? (pod.terminating ? gone : undefined);
      return reason ? [{ rank: pod.rank, podUid: pod.uid, reason }] : [];
    }),
  };
}
