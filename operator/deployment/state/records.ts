// What this process holds of each deployment, one record each; a new leader finds it again (DECISIONS.md 9).

import type { DownloadProgress } from "../../../crds/download.ts";
import { keyOf, type Ref } from "../../kube/kube.ts";
import { type Memory, noMemory } from "../core/memory.ts";
import type { Revision } from "../objects/revision.ts";
import type { NatsEntries } from "./nats-credentials.ts";

export interface DownloadPoll {
  /** The pod's. */
  readonly uid: string;
  report: DownloadProgress | undefined;
  /** The body of the last question that was answered. */
  told: string | undefined;
  waiting: boolean;
  due: number;
}

export interface DeploymentRecord {
  readonly uid: string;
  memory: Memory;
  /** Our last accepted spec, which the cache may not show yet. */
  written?: Revision;
  /** NATS credentials as last read, by their source. */
  credentials?: { readonly source: string; readonly entries: NatsEntries; readonly until: number } | undefined;
  /** The poll of its downloading pod. */
  download?: DownloadPoll | undefined;
  /** That of its weight server. */
  weightServer?: DownloadPoll | undefined;
}

export interface Owner extends Ref {
  readonly uid: string;
}

export class Records {
  readonly #all = new Map<string, DeploymentRecord>();

  /** The record of this uid, which a pass begins; that of a deleted namesake is replaced. */
  open({ uid, ...ref }: Owner): DeploymentRecord {
    const found = this.find(ref);
    if (found?.uid === uid) return found;
    const record: DeploymentRecord = { uid, memory: noMemory };
    this.#all.set(keyOf(ref), record);
    return record;
  }

  find(ref: Ref, uid?: string): DeploymentRecord | undefined {
    const found = this.#all.get(keyOf(ref));
    return uid === undefined || found?.uid === uid ? found : undefined;
  }

  forget(ref: Ref): void {
    this.#all.delete(keyOf(ref));
  }
}
