// Stores the last accepted specs of each deployment, with their templates and image, as ControllerRevisions. DECISIONS.md 3.

import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { isOrphan, manager } from "../../kube/adoption.ts";
import type { Informers } from "../../kube/informers.ts";
import { type Kube, type KubeObject, refOf, resources } from "../../kube/kube.ts";
import { objectLabels, ownerOf } from "../objects/context.ts";
import { type Accepted, type AcceptedRevision, type Revision, readRevision, revisionData, sameAccepted } from "../objects/revision.ts";
import type { Owner, Records } from "./records.ts";

/** Revisions per deployment, those in effect and stable included. */
export const revisionsMax = 5;
/** Part of the uid in the name, since revisions of a deleted namesake may still exist. */
const uidChars = 8;

export class AcceptedSpecs {
  readonly #kube: Kube;
  readonly #informers: Informers;
  readonly #records: Records;

  constructor(kube: Kube, informers: Informers, records: Records) {
    this.#kube = kube;
    this.#informers = informers;
    this.#records = records;
  }

  /** Newest first. */
  revisions(owner: Owner): AcceptedRevision[] {
    return this.#revisions(owner).flatMap(({ number, accepted }) => (accepted ? [{ number, accepted }] : []));
  }

  latest(owner: Owner): Accepted | undefined {
    return this.revisions(owner)[0]?.accepted;
  }

  /** Stores a spec unless it is the newest, and deletes old ones but that with the `stable` template. */
  async keep(deployment: MoEDeployment, accepted: Accepted, stable?: string): Promise<void> {
    const { metadata } = deployment;
    const [newest] = this.#revisions(metadata);
    if (!newest?.accepted || this.#vanished(newest) || !sameAccepted(newest.accepted, accepted))
      await this.#write(deployment, accepted, (newest?.number ?? 0) + 1);
    for (const object of [...spare(this.#revisions(metadata), stable), ...this.#orphans(deployment)])
      await this.#kube.delete(resources.controllerRevisions, refOf(object), { uid: object.metadata.uid ?? "" });
  }

  async #write(deployment: MoEDeployment, accepted: Accepted, revision: number): Promise<void> {
    const { uid, name, namespace } = deployment.metadata;
    const object: KubeObject = {
      apiVersion: resources.controllerRevisions.apiVersion,
      kind: resources.controllerRevisions.kind,
      metadata: {
        name: `${name}-${uid.slice(0, uidChars)}-${revision}`,
        namespace,
        labels: objectLabels(name, "shared"),
        ownerReferences: [ownerOf(deployment)],
      },
      revision,
      data: revisionData(accepted),
    };
    const written = await this.#kube.create(resources.controllerRevisions, object, { manager });
    this.#records.open(deployment.metadata).written = { number: revision, object: written, accepted };
  }

  /** Revisions of a deleted namesake. */
  #orphans({ metadata }: MoEDeployment): KubeObject[] {
    return this.#informers.ofDeployment("controllerRevisions", metadata).filter((object) => isOrphan(object.metadata, metadata.name));
  }

  /** Newest first. */
  #revisions({ uid, ...ref }: Owner): Revision[] {
    const cached = this.#informers.ownedBy("controllerRevisions", uid).map(readRevision);
    const { written } = this.#records.find(ref, uid) ?? {};
    const unseen = written && !cached.some((one) => one.object.metadata.uid === written.object.metadata.uid) ? [written] : [];
    return [...cached, ...unseen].sort((a, b) => b.number - a.number);
  }

  /** The cache has seen the write but lacks the object: somebody deleted it. */
  #vanished({ object }: Revision): boolean {
    const cached = this.#informers.get("controllerRevisions", refOf(object));
    return cached === undefined && this.#informers.covers("controllerRevisions", object);
  }
}

/** Unreadable ones, duplicates, and the oldest beyond the bound; never the newest. */
function spare([newest, ...older]: readonly Revision[], stable: string | undefined): KubeObject[] {
  if (!newest) return [];
  const kept = [newest];
  const gone: KubeObject[] = [];
  const lastStable = [newest, ...older].find(({ accepted }) => accepted?.template.hash === stable);
  for (const one of older) {
    const { accepted } = one;
    const again = accepted !== undefined && kept.some((other) => other.accepted && sameAccepted(other.accepted, accepted));
    const fits = kept.length < revisionsMax - Number(lastStable !== undefined && !kept.includes(lastStable) && one !== lastStable);
    if (accepted && !again && fits) kept.push(one);
    else gone.push(one.object);
  }
  return gone;
}
