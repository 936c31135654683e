// Checks clocks: the API server records when a kubelet wrote its own time into its lease.
import { z } from "zod";
import { resources } from "../../kube/kube.ts";
import { listed } from "../../views/format.ts";
import { type Check, type Outcome, ok, skip, warn } from "./check.ts";

/** Only logs, certificates and dashboards suffer. */
const offsetSecondsMax = 10;
const namedMax = 6;

const leaseSchema = z.object({
  metadata: z.object({ name: z.string(), managedFields: z.array(z.object({ time: z.string().optional() })).default([]) }),
  spec: z.object({ renewTime: z.string().optional() }).prefault({}),
});

/** Seconds that the node is ahead; undefined where unknown. Pure. */
function offsetSeconds(object: unknown): number | undefined {
  const { metadata, spec } = leaseSchema.parse(object);
  const written = metadata.managedFields.flatMap(({ time }) => (time === undefined ? [] : [Date.parse(time)]));
  if (written.length === 0 || spec.renewTime === undefined) return undefined;
  return (Date.parse(spec.renewTime) - Math.max(...written)) / 1000;
}

export function judgeClocks(leases: readonly unknown[]): Outcome {
  const known = leases.flatMap((lease) => {
    const offset = offsetSeconds(lease);
    return offset === undefined ? [] : [{ node: leaseSchema.parse(lease).metadata.name, offset }];
  });
  if (known.length === 0) return skip("clocks of nodes", "no node's lease tells its time");
  const wrong = known.filter(({ offset }) => Math.abs(offset) > offsetSecondsMax);
  if (wrong.length === 0) return ok(`${known.length} nodes are within ${offsetSecondsMax} s of the API server's clock`);
  const texts = wrong.map(({ node, offset }) => `${node} ${Math.abs(offset).toFixed(0)} s ${offset > 0 ? "ahead" : "behind"}`);
  return warn(`clocks differ from the API server's: ${listed(texts, namedMax)}`, "start NTP (chrony, systemd-timesyncd) on these nodes");
}

export const clocks: Check = {
  name: "clocks",
  when: "always",
  run: async ({ kube }) => [judgeClocks((await kube.list(resources.leases, { namespace: "kube-node-lease" })).items)],
};
