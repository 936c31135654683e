// How many gateways a new deployment begins with: two where two nodes can take one each, so that one is left when a node is gone. Pure.
import { parseQuantity } from "../../../crds/quantity.ts";
import type { Reckoned } from "./capacity.ts";

export interface NodeCapacity {
  readonly name: string;
  /** Ready, not cordoned, and without taints that keep pods away. */
  readonly isOpen: boolean;
  readonly labels: Readonly<Record<string, string>>;
  /** What its pods may ask for together; unset where it does not say. */
  readonly allocatable: Readonly<Record<string, string>> | undefined;
}

/** What a gateway pod asks for, as far as it decides. */
export interface GatewayNeeds {
  readonly requests: readonly Readonly<Record<string, string>>[];
  readonly nodeSelector: Readonly<Record<string, string>>;
  readonly hasAffinity: boolean;
}

export function firstGateways(needs: GatewayNeeds, nodes: readonly NodeCapacity[]): Reckoned {
  if (needs.hasAffinity)
    return { count: 1, reason: "gateway.podTemplate has an affinity, of which it is not known how many nodes it allows" };
  const able = nodes.filter((node) => takes(node, needs)).map(({ name }) => name);
  if (able.length < 2) return { count: 1, reason: `${able.length} of ${nodes.length} nodes can take a gateway` };
  return { count: 2, reason: `nodes ${able.slice(0, 2).join(" and ")} can take one each` };
}

function takes({ isOpen, labels, allocatable }: NodeCapacity, { requests, nodeSelector }: GatewayNeeds): boolean {
  if (!isOpen || allocatable === undefined) return false;
  if (Object.entries(nodeSelector).some(([label, value]) => labels[label] !== value)) return false;
  const names = new Set(requests.flatMap((one) => Object.keys(one)));
  return [...names].every(
    (what) => requests.reduce((sum, one) => sum + amountOf(one[what] ?? "0"), 0) <= amountOf(allocatable[what] ?? "0"),
  );
}

/** NaN, which is never enough, for what is no quantity. */
function amountOf(amount: string): number {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)(m?)$/.exec(amount) ?? [];
  if (number !== undefined) return Number(number) / (unit === "m" ? 1000 : 1);
  try {
    return parseQuantity(amount, "resources");
  } catch {
    return Number.NaN;
  }
}
