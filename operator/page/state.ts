// The state that the page shows: leadership, cached objects, placements and their memory.
import type { KubeObject } from "../kube/kube.ts";
import type { PlacementPicture } from "../rebalance/status/picture.ts";
import { Memory } from "./memory.ts";
import { deploymentReader, jobReader, type Source } from "./source.ts";

interface PageStateParts {
  readonly cache: { list(name: "moeDeployments" | "moeTrainingJobs"): readonly KubeObject[] };
  readonly now: () => number;
}

interface Shown {
  picture(uid: string): PlacementPicture | undefined;
}

export class PageState {
  readonly #parts: PageStateParts;
  readonly #deployments = deploymentReader();
  readonly #jobs = jobReader();
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
      const picture = shown.picture(uid);
      return picture ? [[uid, picture] as const] : [];
    });
    this.#memory.take(new Map(known), this.#parts.now());
  }

  source(): Source {
    const { cache, now } = this.#parts;
    return {
      now: now(),
      deployments: () => cache.list("moeDeployments").map((object) => this.#deployments.read(object)),
      jobs: () => cache.list("moeTrainingJobs").map((object) => this.#jobs.read(object)),
      picture: (uid) => this.#shown?.picture(uid),
      remembered: (uid) => this.#memory.of(uid),
      latest: (uid) => this.#memory.latest(uid),
    };
  }
}
