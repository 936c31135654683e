// Checks spec.model.uri: whether its source answers, and whether the claim is large enough.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { parseQuantity } from "../../../crds/quantity.ts";
import { resources } from "../../kube/kube.ts";
import { type Check, fail, type ModelSource, type Outcome, ok, warn } from "./check.ts";

/** Anything but a store needs twice its size until the store is verified. */
const copies = { store: 1, folder: 2, gguf: 2 } as const;

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;

export const neededBytes = ({ kind, bytes }: ModelSource): number => copies[kind] * bytes;

export function judgeSource({ kind, revision, files, bytes }: ModelSource, uri: string): Outcome {
  const at = revision === undefined ? "" : `, commit ${revision.slice(0, 12)}`;
  return ok(`${uri}: a ${kind} of ${files} files, ${gigabytes(bytes)}${at}`);
}

export function judgeNoSource(caught: unknown, uri: string): Outcome {
  const { code, message } = AppError.from(caught);
  return fail(
    `${uri}: ${code}: ${message}`,
    "correct spec.model.uri, or what HF_TOKEN, AWS_* or AUTHORIZATION of this shell and of secretRef say",
  );
}

const claimSchema = z.object({
  spec: z
    .object({ resources: z.object({ requests: z.object({ storage: z.string().optional() }).prefault({}) }).prefault({}) })
    .prefault({}),
  status: z.object({ capacity: z.object({ storage: z.string().optional() }).prefault({}) }).prefault({}),
});

/** The API server does not know a claim's usage. */
export function judgeFreeBytes(claim: unknown, where: string, needed: number): Outcome {
  if (claim === undefined)
    return warn(
      `claim ${where} is not there; the model takes ${gigabytes(needed)} of it`,
      `make one with storage: ${Math.ceil(needed / 2 ** 30)}Gi or more`,
    );
  const { spec, status } = claimSchema.parse(claim);
  const size = status.capacity.storage ?? spec.resources.requests.storage;
  if (size === undefined) return warn(`claim ${where} does not say its size`, `it takes ${gigabytes(needed)}`);
  const bytes = parseQuantity(size, "storage");
  const text = `claim ${where} has ${size} in all, the model takes ${gigabytes(needed)} of it`;
  return bytes >= needed ? ok(text) : fail(text, `take a claim with storage: ${Math.ceil(needed / 2 ** 30)}Gi or more`);
}

export const modelSource: Check = {
  name: "model source",
  when: "always",
  run: async ({ kube, namespace, model }) => {
    if (!model) return [];
    let found: ModelSource;
    try {
      found = await model.ask();
    } catch (caught) {
      return [judgeNoSource(caught, model.uri)];
    }
    const source = judgeSource(found, model.uri);
    if (model.claim === undefined) return [source];
    const claim = await kube.get(resources.persistentVolumeClaims, { namespace, name: model.claim });
    return [source, judgeFreeBytes(claim, `${namespace}/${model.claim}`, neededBytes(found))];
  },
};
