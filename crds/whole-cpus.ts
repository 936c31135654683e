// Computes a worker's exclusive CPUs under a static CPU manager from the pod template. A process cannot detect them: a shared pool looks
// the same.
import { parseQuantity } from "./quantity.ts";

type Amounts = Readonly<Record<string, unknown>> | undefined;

/** 0 without: the kubelet grants whole CPUs only in pods whose containers all have limits and equal requests. */
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

/** Undefined for an invalid quantity, which the API server refuses. */
function amount(of: Amounts, name: Resource): number | undefined {
  const value = of?.[name];
  if (typeof value !== "string" && typeof value !== "number") return undefined;
  try {
    return amounts[name](`${value}`);
  } catch {
    return undefined;
  }
}
