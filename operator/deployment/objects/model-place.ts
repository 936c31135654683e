// Claim and folder of a model, by URI and codec only, so that deployments share a store. Pure.
import { createHash } from "node:crypto";
import { z } from "zod";
import { annotations, paths } from "../../../crds/common.ts";
import { type MoEDeployment, type MoEDeploymentSpec, parseModelUri, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { defaultCodec } from "../../../crds/names.ts";
import { modelVolume, workerProcess } from "../../../crds/process.ts";
import type { KubeObject } from "../../kube/kube.ts";

export interface ModelPlace {
  /** Undefined for a model on the weight server's own disk. */
  readonly claim: string | undefined;
  readonly folder: string;
}

const hashChars = 16;
const jobHashChars = 8;
const slugChars = 60;

const hashOf = (parts: readonly unknown[]): string => createHash("sha256").update(JSON.stringify(parts)).digest("hex");

export function modelPlace({ model, runtime }: Pick<MoEDeploymentSpec, "model" | "runtime">): ModelPlace {
  if (model.cache === undefined) return parseModelUri(model.uri);
  const slug = model.uri
    .replace(/^\w+:\/\//, "")
    .replace(/[^A-Za-z0-9.]+/g, "-")
    .slice(-slugChars)
    .replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, "");
  const folder = `${slug}-${hashOf([model.uri, runtime.expertCodec]).slice(0, hashChars)}`;
  return { claim: model.cache.persistentVolumeClaim?.claimName, folder };
}

const mounted = z.object({
  containers: z.array(z.object({ env: z.array(z.object({ name: z.string(), value: z.string().optional() })).default([]) })),
  volumes: z.array(z.object({ name: z.string(), persistentVolumeClaim: z.object({ claimName: z.string() }).optional() })),
});

/** As one text; undefined where the spec names none. */
export function modelOfPod({ metadata, spec }: Partial<Pick<KubeObject, "metadata" | "spec">>): string | undefined {
  const said = metadata?.annotations?.[annotations.modelPlace];
  if (said !== undefined) return said;
  const pod = mounted.safeParse(spec).data;
  const claim = pod?.volumes.find(({ name }) => name === modelVolume)?.persistentVolumeClaim?.claimName;
  const path = pod?.containers.flatMap(({ env }) => env).find(({ name }) => name === workerProcess.modelDir.variable)?.value;
  return claim === undefined || path === undefined ? undefined : `${claim}${path}`;
}

const noClaim = "(ephemeral)";
export const modelText = ({ claim, folder }: ModelPlace): string => `${claim ?? noClaim}${paths.models}/${folder}`;

const withCodec = (text: string, codec: string): string => `${text}#${codec}`;

/** Like `modelOfPod`, but it includes the codec. */
export function rankModelOfPod(pod: Partial<Pick<KubeObject, "metadata" | "spec">>): string | undefined {
  const place = modelOfPod(pod);
  const variables = mounted.safeParse(pod.spec).data?.containers.flatMap(({ env }) => env) ?? [];
  const codec = variables.find(({ name }) => name === workerProcess.codec.variable)?.value ?? defaultCodec;
  return place === undefined ? undefined : withCodec(place, codec);
}

export const rankModelText = (spec: Pick<MoEDeploymentSpec, "model" | "runtime">): string =>
  withCodec(modelText(modelPlace(spec)), spec.runtime.expertCodec);

/** One per deployment, so that no two pods write the same file. */
export function workFolder({ metadata, spec }: MoEDeployment): string {
  return `.enodia-${hashOf([metadata.uid, modelPlace(spec).folder]).slice(0, hashChars)}`;
}

const workFoldersMax = 1_000;

/** Undefined where they are unknown. */
export function workFolders(deployments: readonly KubeObject[]): readonly string[] | undefined {
  if (deployments.length > workFoldersMax) return undefined;
  try {
    const downloading = deployments.map(parseMoEDeployment).filter(({ spec }) => spec.model.cache !== undefined);
    return [...new Set(downloading.map(workFolder))].sort();
  } catch {
    return undefined;
  }
}

/** Undefined where no Job downloads. Another secret, claim or model gives another name. */
export function downloadJobName({ metadata, spec }: MoEDeployment): string | undefined {
  const { model } = spec;
  if (model.cache?.persistentVolumeClaim === undefined) return undefined;
  const parts = [metadata.uid, modelPlace(spec), model.secretRef?.name ?? ""];
  return `${metadata.name}-model-${hashOf(parts).slice(0, jobHashChars)}`;
}
