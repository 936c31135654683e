// The namespaces that a reader sees; views are built from a source with nothing else. Pure.
import type { Source } from "./state.ts";

export type Namespaces = "all" | ReadonlySet<string>;

export interface Scope {
  /** Equal for readers who see the same and share views. */
  readonly key: string;
  readonly deployments: Namespaces;
  readonly jobs: Namespaces;
}

const keyOf = (one: Namespaces): string => (one === "all" ? "*" : [...one].toSorted().join(","));

export const scopeOf = (deployments: Namespaces, jobs: Namespaces): Scope => ({
  key: `${keyOf(deployments)} ${keyOf(jobs)}`,
  deployments,
  jobs,
});

/** Empty = no bound. */
export function boundOf(namespaces: readonly string[]): Namespaces {
  return namespaces.length === 0 ? "all" : new Set(namespaces);
}

export const has = (some: Namespaces, namespace: string): boolean => some === "all" || some.has(namespace);

export const unbounded: Scope = scopeOf("all", "all");

export function seen(source: Source, { deployments, jobs }: Scope): Source {
  return {
    now: source.now,
    deployments: () => source.deployments().filter(({ namespace }) => has(deployments, namespace)),
    jobs: () => source.jobs().filter(({ namespace }) => has(jobs, namespace)),
    pods: (of, ref) => (has(of === "moed" ? deployments : jobs, ref.namespace) ? source.pods(of, ref) : []),
    warnings: (namespace) => source.warnings(namespace),
    placement: (uid) => source.placement(uid),
    remembered: (uid) => source.remembered(uid),
    latest: (uid) => source.latest(uid),
  };
}
