// The store of the last accepted spec of each deployment, of the worker and gateway templates that were rendered from it, and of the
// runtime image that they run: a ControllerRevision that the deployment owns. That kind is made for this: its data cannot be changed
// once written, and the default roles let nobody but controllers write it, so that nobody gets a pod made through the operator who
// could not make it himself. There is one, and for a moment two: the newer is written before the older goes, and the highest revision
// counts. Replicas and suspend are no part of it, since they are obeyed whatever else is refused, so that scaling writes none.
import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import { type MoEDeployment, type MoEDeploymentSpec, moeDeploymentSpecSchema } from "../../crds/moe-deployment.ts";
import { type Kube, type KubeObject, refOf, resources } from "../kube/kube.ts";
import { manager } from "./apply.ts";
import type { Informers } from "./informers.ts";
import { isOrphan, objectLabels, ownerOf } from "./objects/context.ts";
import { type RenderedPod, storedPod, storedTemplate, type WorkerTemplate } from "./objects/worker-pod.ts";

export interface Accepted {
  /** The generation that was accepted; for messages. */
  readonly generation: number;
  readonly spec: MoEDeploymentSpec;
  readonly template: WorkerTemplate;
  readonly gateway: RenderedPod;
  /** The image of workers and gateways that name none of their own. */
  readonly runtimeImage: string;
}

interface Revision {
  readonly number: number;
  readonly object: KubeObject;
  /** Undefined when this version cannot read it. */
  readonly accepted: Accepted | undefined;
}

const acceptedSchema = z.object({
  generation: z.int(),
  spec: moeDeploymentSpecSchema,
  template: storedTemplate,
  gateway: storedPod,
  runtimeImage: z.string().min(1),
});
/**
 * JSON in base64. A patch of anything in the object writes its data anew, with keys in another order and characters escaped otherwise,
 * and is refused since data cannot change: the garbage collector could not take the owner away.
 */
const revisionSchema = z.object({
  revision: z.int(),
  data: z.object({ json: z.base64().transform(unpacked).pipe(acceptedSchema) }),
});
/** Characters of the owner's uid in the name: a deleted namesake's revisions may still await collection. */
const uidChars = 8;

export class AcceptedSpecs {
  readonly #kube: Kube;
  readonly #informers: Informers;
  /** Our last write for each owner, which the cache may not show yet. */
  readonly #written = new Map<string, Revision>();

  constructor(kube: Kube, informers: Informers) {
    this.#kube = kube;
    this.#informers = informers;
  }

  /** The spec that was accepted last; undefined when none was. */
  latest(uid: string): Accepted | undefined {
    return this.#revisions(uid).find((one) => one.accepted)?.accepted;
  }

  /** Stores what was accepted unless it is stored, and then removes what is older. */
  async keep(deployment: MoEDeployment, accepted: Accepted): Promise<void> {
    const { uid } = deployment.metadata;
    const [newest] = this.#revisions(uid);
    if (!newest?.accepted || this.#vanished(newest) || !same(newest.accepted, accepted))
      await this.#write(deployment, accepted, (newest?.number ?? 0) + 1);
    const [kept, ...older] = this.#revisions(uid);
    for (const object of [...older.map((one) => one.object), ...this.#orphans(deployment)]) {
      if (object.metadata.name === kept?.object.metadata.name) continue;
      await this.#kube.delete(resources.controllerRevisions, refOf(object), { uid: object.metadata.uid ?? "" });
    }
  }

  forget(uid: string): void {
    this.#written.delete(uid);
  }

  async #write(deployment: MoEDeployment, accepted: Accepted, revision: number): Promise<void> {
    const { uid, name, namespace } = deployment.metadata;
    const { replicas: _, suspend: __, ...spec } = accepted.spec;
    const { generation, template, gateway, runtimeImage } = accepted;
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
      data: { json: packed({ generation, spec, template: stored(template), gateway: stored(gateway), runtimeImage }) },
    };
    const written = await this.#kube.create(resources.controllerRevisions, object, { manager });
    this.#written.set(uid, { number: revision, object: written, accepted });
  }

  /** Those of a deleted deployment of this name: nobody reads them. */
  #orphans({ metadata: { namespace, name } }: MoEDeployment): KubeObject[] {
    return this.#informers.list(
      "controllerRevisions",
      (object) => object.metadata.namespace === namespace && isOrphan(object.metadata, name),
    );
  }

  /** Newest first. */
  #revisions(uid: string): Revision[] {
    const owns = (object: KubeObject) => object.metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;
    const cached = this.#informers.list("controllerRevisions", owns).map(readRevision);
    const written = this.#written.get(uid);
    const unseen = written && !cached.some((one) => one.object.metadata.uid === written.object.metadata.uid) ? [written] : [];
    return [...cached, ...unseen].sort((a, b) => b.number - a.number);
  }

  /** Somebody deleted it: the cache has heard of the write and does not have the object. */
  #vanished({ object }: Revision): boolean {
    const cached = this.#informers.get("controllerRevisions", refOf(object));
    return cached === undefined && this.#informers.covers("controllerRevisions", object);
  }
}

function readRevision(object: KubeObject): Revision {
  const number = Number(object.revision);
  const parsed = revisionSchema.safeParse(object);
  return { number: Number.isInteger(number) ? number : 0, object, accepted: parsed.success ? parsed.data.data.json : undefined };
}

function packed(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString("base64");
}

function unpacked(text: string): unknown {
  try {
    return JSON.parse(Buffer.from(text, "base64").toString("utf8"));
  } catch {
    return undefined; // what is no JSON is no spec
  }
}

const stored = ({ hash, pod }: RenderedPod): RenderedPod => ({ hash, pod });

function same(a: Accepted, b: Accepted): boolean {
  const pods = a.template.hash === b.template.hash && a.gateway.hash === b.gateway.hash && a.runtimeImage === b.runtimeImage;
  return pods && isDeepStrictEqual(durable(a.spec), durable(b.spec));
}

/** The spec without what is obeyed in any case. */
function durable({ replicas: _, suspend: __, ...spec }: MoEDeploymentSpec): Omit<MoEDeploymentSpec, "replicas" | "suspend"> {
  return spec;
}
