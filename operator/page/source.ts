// The source of all views: cached objects, each parsed once, and the rebalance plane while this replica leads.
import { AppError } from "../../crds/common.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../crds/moe-deployment.ts";
import { type MoETrainingJob, parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import type { KubeObject } from "../kube/kube.ts";
import type { PlacementPicture } from "../rebalance/status/picture.ts";
import type { Remembered, Sample } from "./memory.ts";

/** An object, or why it cannot be read. */
export interface Read<T> {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly parsed: T | undefined;
  readonly problem: string;
}

export interface Source {
  readonly now: number;
  deployments(): readonly Read<MoEDeployment>[];
  jobs(): readonly Read<MoETrainingJob>[];
  picture(uid: string): PlacementPicture | undefined;
  remembered(uid: string): Remembered | undefined;
  latest(uid: string): Sample | undefined;
}

/** The cache replaces objects and never changes them. */
class Reader<T> {
  readonly #parse: (object: unknown) => T;
  readonly #known = new WeakMap<KubeObject, Read<T>>();

  constructor(parse: (object: unknown) => T) {
    this.#parse = parse;
  }

  read(object: KubeObject): Read<T> {
    const known = this.#known.get(object);
    if (known) return known;
    const { namespace = "", name, uid = "" } = object.metadata;
    let read: Read<T>;
    try {
      read = { namespace, name, uid, parsed: this.#parse(object), problem: "" };
    } catch (caught) {
      read = { namespace, name, uid, parsed: undefined, problem: AppError.from(caught).message };
    }
    this.#known.set(object, read);
    return read;
  }
}

export const deploymentReader = (): Reader<MoEDeployment> => new Reader(parseMoEDeployment);
export const jobReader = (): Reader<MoETrainingJob> => new Reader(parseMoETrainingJob);
