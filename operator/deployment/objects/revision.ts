// An accepted spec to and from a ControllerRevision, for accepted-specs.ts and the command line.
import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import { type MoEDeploymentSpec, moeDeploymentSpecSchema } from "../../../crds/moe-deployment.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { type RenderedPod, storedPod, storedTemplate, type WorkerTemplate } from "./worker-pod.ts";

export interface Accepted {
  readonly generation: number;
  readonly spec: MoEDeploymentSpec;
  readonly template: WorkerTemplate;
  readonly gateway: RenderedPod;
  /** Pods that name no image get this one. */
  readonly runtimeImage: string;
}

export interface AcceptedRevision {
  readonly number: number;
  readonly accepted: Accepted;
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
 * JSON in base64: a patch of the object rewrites plain data with other key order and escapes, which is refused since data is immutable, so
 * that garbage collection could not remove the owner.
 */
const revisionSchema = z.object({
  revision: z.int(),
  data: z.object({ json: z.base64().transform(unpacked).pipe(acceptedSchema) }),
});

/** Revisions never change, so that each is parsed once. */
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

export function revisionData({ generation, spec, template, gateway, runtimeImage }: Accepted): { readonly json: string } {
  const value = { generation, spec: durable(spec), template: stored(template), gateway: stored(gateway), runtimeImage };
  return { json: Buffer.from(JSON.stringify(value)).toString("base64") };
}

function unpacked(text: string): unknown {
  try {
    return JSON.parse(Buffer.from(text, "base64").toString("utf8"));
  } catch {
    return undefined;
  }
}

const stored = ({ hash, pod }: RenderedPod): RenderedPod => ({ hash, pod });

export function sameAccepted(a: Accepted, b: Accepted): boolean {
  const pods = a.template.hash === b.template.hash && a.gateway.hash === b.gateway.hash && a.runtimeImage === b.runtimeImage;
  return pods && isDeepStrictEqual(durable(a.spec), durable(b.spec));
}

/** The spec less the fields that apply regardless of acceptance. */
export function durable(spec: MoEDeploymentSpec): Omit<MoEDeploymentSpec, "replicas" | "suspend" | "rolloutStrategy"> {
  const { replicas: _, suspend: __, rolloutStrategy: ___, ...rest } = spec;
  return rest;
}
