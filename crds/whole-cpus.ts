// The processors that a worker's container has for itself on nodes with a static CPU manager, by the pod's template. Pure. A process cannot
// tell: of a pool that other pods share it sees the same, a set smaller than the machine and no quota.
import { parseQuantity } from "./quantity.ts";

type Amounts = Readonly<Record<string, unknown>> | undefined;

/** 0 where there are none: the kubelet gives them to whole CPUs in pods of which every container has limits, and no smaller requests. */
export function wholeCpus(
  template: { readonly spec?: Readonly<Record<string, unknown>> | undefined } | undefined,
  container: string,
): number {
  const { containers = [], initContainers = [] } = (template?.spec ?? {}) as Record<string, readonly Readonly<Record<string, unknown>>[]>;
  const own = containers.find(({ name }) => name === container);
  if (own === undefined || ![...containers, ...initContainers].every(isGuaranteed)) return 0;
  const cpus = amount(amountsOf(own, "limits"), "cpu") as number;
  return Number.isInteger(cpus) ? cpus : 0;
}

function isGuaranteed(container: Readonly<Record<string, unknown>>): boolean {
  const [limits, requests] = [amountsOf(container, "limits"), amountsOf(container, "requests")];
  return (Object.keys(amounts) as Resource[]).every((name) => {
    const limit = amount(limits, name);
    return limit !== undefined && (requests?.[name] === undefined || amount(requests, name) === limit);
  });
}

const amountsOf = ({ resources }: Readonly<Record<string, unknown>>, kind: "limits" | "requests"): Amounts =>
  (resources as Readonly<Record<string, Amounts>> | undefined)?.[kind];

type Resource = keyof typeof amounts;

const amounts = {
  cpu(text: string): number | undefined {
    const [, number, milli] = /^([0-9]+(?:\.[0-9]+)?)(m?)$/.exec(text) ?? [];
    return number === undefined ? undefined : Number(number) / (milli ? 1000 : 1);
  },
  memory: (text: string): number => parseQuantity(text, "memory"),
} as const;

/** What is no quantity counts as none here, and is refused by the API server. */
function amount(of: Amounts, name: Resource): number | undefined {
  const value = of?.[name];
  if (typeof value !== "string" && typeof value !== "number") return undefined;
  try {
    return amounts[name](`${value}`);
  } catch {
    return undefined;
  }
}
