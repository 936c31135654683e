// The state that the page shows: leadership, cached objects, placements and their memory.

import { AppError, labels } from "../../crds/common.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../crds/moe-deployment.ts";
import { type MoETrainingJob, parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import type { KubeObject, Ref } from "../kube/kube.ts";
import type { PlacementView } from "../rebalance/status/placement-view.ts";
import type { SubjectKind } from "../views/findings/finding.ts";
import { changedAt } from "../views/findings/seen.ts";
import { type PodFacts, podFactsOf } from "../views/pods.ts";
import { Memory, type Remembered, type Sample } from "./memory.ts";
import type { Warnings } from "./warnings.ts";

type Copy = "moeDeployments" | "moeTrainingJobs" | "pods" | "trainingPods";

interface PageStateParts {
  readonly cache: { list(name: Copy, filter?: (object: KubeObject) => boolean): readonly KubeObject[] };
  readonly warnings: { of(namespace: string): Warnings };
  readonly now: () => number;
}

interface Shown {
  placement(uid: string): PlacementView | undefined;
}

export class PageState {
  readonly #parts: PageStateParts;
  readonly #deployments = reader(parseMoEDeployment);
  readonly #jobs = reader(parseMoETrainingJob);
  readonly #pods = kept((object) => podFactsOf(object));
  #memory = new Memory();
  #shown: Shown | undefined;
  #leader: string | undefined;

  constructor(parts: PageStateParts) {
    this.#parts = parts;
  }

  /** A term begins; the returned function ends it. */
  lead(shown: Shown): () => void {
    this.#shown = shown;
    this.#memory = new Memory();
    return () => {
      if (this.#shown === shown) this.#shown = undefined;
      this.#leader = undefined;
    };
  }

  follow(leader: string): void {
    this.#leader = leader;
  }

  get leads(): boolean {
    return this.#shown !== undefined;
  }

  /** The other replica that leads, where known. */
  get leader(): string | undefined {
    return this.#shown ? undefined : this.#leader;
  }

  namespaces(): { readonly deployments: readonly string[]; readonly jobs: readonly string[] } {
    const of = (name: "moeDeployments" | "moeTrainingJobs"): string[] =>
      this.#parts.cache.list(name).map(({ metadata }) => metadata.namespace ?? "");
    return { deployments: of("moeDeployments"), jobs: of("moeTrainingJobs") };
  }

  sample(): void {
    const shown = this.#shown;
    if (!shown) return;
    const uids = this.#parts.cache.list("moeDeployments").map(({ metadata }) => metadata.uid ?? "");
    const known = uids.flatMap((uid) => {
      const placement = shown.placement(uid);
      return placement ? [[uid, placement] as const] : [];
    });
    this.#memory.take(new Map(known), this.#parts.now());
  }

  source(): Source {
    const { cache, warnings, now } = this.#parts;
    return {
      now: now(),
      deployments: () => cache.list("moeDeployments").map(this.#deployments),
      jobs: () => cache.list("moeTrainingJobs").map(this.#jobs),
      pods: (of, { namespace, name }) => {
        const { copy, label } = podsOf[of];
        const own = ({ metadata }: KubeObject) => metadata.namespace === namespace && metadata.labels?.[label] === name;
        return cache.list(copy, own).flatMap((object) => this.#pods(object) ?? []);
      },
      warnings: (namespace) => warnings.of(namespace),
      placement: (uid) => this.#shown?.placement(uid),
      remembered: (uid) => this.#memory.of(uid),
      latest: (uid) => this.#memory.latest(uid),
    };
  }
}

const podsOf = {
  moed: { copy: "pods", label: labels.deployment },
  moet: { copy: "trainingPods", label: labels.trainingJob },
} as const;

/** An object, or why it cannot be read. */
export interface Read<T> {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly parsed: T | undefined;
  readonly problem: string;
  /** The newest change outside the status. */
  readonly changedAt: Date | undefined;
}

export interface Source {
  readonly now: number;
  deployments(): readonly Read<MoEDeployment>[];
  jobs(): readonly Read<MoETrainingJob>[];
  pods(of: SubjectKind, ref: Ref): readonly PodFacts[];
  warnings(namespace: string): Warnings;
  placement(uid: string): PlacementView | undefined;
  remembered(uid: string): Remembered | undefined;
  latest(uid: string): Sample | undefined;
}

/** The cache replaces objects and never changes them. */
function kept<T>(make: (object: KubeObject) => T): (object: KubeObject) => T {
  const known = new WeakMap<KubeObject, { readonly made: T }>();
  return (object) => {
    const { made } = known.get(object) ?? { made: make(object) };
    known.set(object, { made });
    return made;
  };
}

function reader<T>(parse: (object: unknown) => T): (object: KubeObject) => Read<T> {
  return kept((object) => {
    const { namespace = "", name, uid = "" } = object.metadata;
    const read: Read<T> = { namespace, name, uid, parsed: undefined, problem: "", changedAt: changedAt(object) };
    try {
      return { ...read, parsed: parse(object) };
    } catch (caught) {
      return { ...read, problem: AppError.from(caught).message };
    }
  });
}
