// An accepted spec as it stands in a ControllerRevision, to and from the object. accepted-specs.ts keeps such objects; the command line
// reads them.
import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import { type MoEDeploymentSpec, moeDeploymentSpecSchema } from "../../crds/moe-deployment.ts";
import type { KubeObject } from "../kube/kube.ts";
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

export interface Revision {
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

/** The object of a revision never changes, and the cache hands out the same one until it is gone: it is read once. */
const read = new WeakMap<KubeObject, Revision>();

export function readRevision(object: KubeObject): Revision {
  const known = read.get(object);
  if (known) return known;
  const number = Number(object.revision);
  const parsed = revisionSchema.safeParse(object);
  const accepted = parsed.success ? parsed.data.data.json : undefined;
  const revision = { number: Number.isInteger(number) ? number : 0, object, accepted };
  read.set(object, revision);
  return revision;
}

/** The field `data` of the object. */
export function revisionData({ generation, spec, template, gateway, runtimeImage }: Accepted): { readonly json: string } {
  const value = { generation, spec: durable(spec), template: stored(template), gateway: stored(gateway), runtimeImage };
  return { json: Buffer.from(JSON.stringify(value)).toString("base64") };
}

function unpacked(text: string): unknown {
  try {
    return JSON.parse(Buffer.from(text, "base64").toString("utf8"));
  } catch {
    return undefined; // what is no JSON is no spec
  }
}

const stored = ({ hash, pod }: RenderedPod): RenderedPod => ({ hash, pod });

export function sameAccepted(a: Accepted, b: Accepted): boolean {
  const pods = a.template.hash === b.template.hash && a.gateway.hash === b.gateway.hash && a.runtimeImage === b.runtimeImage;
  return pods && isDeepStrictEqual(durable(a.spec), durable(b.spec));
}

/** The spec without what is obeyed in any case. */
export function durable(spec: MoEDeploymentSpec): Omit<MoEDeploymentSpec, "replicas" | "suspend" | "rolloutStrategy"> {
  const { replicas: _, suspend: __, rolloutStrategy: ___, ...rest } = spec;
  return rest;
}
