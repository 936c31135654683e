// spec.model of a MoEDeployment: URI forms by source, and options. A new source is a row here and a file in runtime/modelstore/download/.
import { z } from "zod";
import { modelCache, modelResources, objectName } from "./model-cache.ts";
import { rules } from "./openapi.ts";

/** `pvc://claim/folder`, with a claim of the same namespace. */
export const modelUriPattern = "^pvc://[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[A-Za-z0-9_][-A-Za-z0-9._]*(/[A-Za-z0-9_][-A-Za-z0-9._]*)*$";

interface SourceForm {
  readonly pattern: string;
  /** Used in messages. */
  readonly form: string;
}

/** Tokens and signatures belong in the Secret, never in a URI. */
export const remoteSources = {
  hf: {
    pattern: "^hf://[A-Za-z0-9][-A-Za-z0-9._]{0,95}/[A-Za-z0-9][-A-Za-z0-9._]{0,95}(@[A-Za-z0-9][-A-Za-z0-9._/]{0,127})?$",
    form: "hf://<owner>/<name>[@<revision>]",
  },
  s3: {
    pattern: "^s3://[a-z0-9][-a-z0-9.]{1,61}[a-z0-9]/[A-Za-z0-9_][-A-Za-z0-9._/]*$",
    form: "s3://<bucket>/<prefix>",
  },
  https: {
    pattern: "^https://[A-Za-z0-9][-A-Za-z0-9.]{0,252}(:[0-9]{1,5})?/[-A-Za-z0-9._~/%+]*$",
    form: "https://<host>/<folder>/ or https://<host>/<file>.gguf",
  },
} as const satisfies Record<string, SourceForm>;
export type RemoteSourceName = keyof typeof remoteSources;

const remoteNames = Object.keys(remoteSources) as RemoteSourceName[];
const claimForm: SourceForm = { pattern: modelUriPattern, form: "pvc://<claim>/<folder>" };
const forms: readonly SourceForm[] = [claimForm, ...Object.values(remoteSources)];

/** Keys of the Secret, and variables of the command line. */
export const sourceSecretKeys = [
  "HF_TOKEN",
  "HF_ENDPOINT",
  "AWS_ACCESS_KEY_ID",
  "AWS_SECRET_ACCESS_KEY",
  "AWS_SESSION_TOKEN",
  "AWS_REGION",
  "AWS_ENDPOINT_URL",
  "AUTHORIZATION",
] as const;
export type SourceSecret = (typeof sourceSecretKeys)[number];

/** Undefined for a model in a claim. */
export const remoteSourceOf = (uri: string): RemoteSourceName | undefined =>
  remoteNames.find((name) => new RegExp(remoteSources[name].pattern).test(uri));

const uriLengthMax = 512;
const inClaim = "self.uri.startsWith('pvc://')";

export const modelSchema = z
  .object({
    uri: z
      .string()
      .max(uriLengthMax)
      .meta({
        description:
          "Where the model is. pvc://<claim>/<folder> is a model store in a claim of the same namespace. hf://<owner>/<name>[@<revision>] is on a hub, s3://<bucket>/<prefix> and https://<host>/<folder>/ or <file>.gguf are elsewhere: a Job downloads these into the cache and makes a store of them. The claim is mounted read-only in every worker; gateways have tokenizer and chat template from a worker.",
        ...rules({
          rule: forms.map(({ pattern }) => `self.matches('${pattern}')`).join(" || "),
          message: `must be ${forms.map(({ form }) => form).join(", ")}; secrets belong into secretRef, other sources into a claim with \`enodia model import\``,
        }),
      }),
    servedName: z
      .string()
      .min(1)
      .max(128)
      .regex(/^[A-Za-z0-9][A-Za-z0-9._:/-]*$/)
      .optional()
      .meta({ description: "Name of the model in the OpenAI API; the name of the object when not given." }),
    secretRef: z
      .object({ name: objectName.meta({ description: "Name of a Secret in the namespace of the deployment." }) })
      .optional()
      .meta({
        description:
          "Secret that the download is authorised by, with the keys that the source knows: HF_TOKEN and HF_ENDPOINT; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL; AUTHORIZATION, the header of that name for https://. ca.crt is trusted beside the public CAs.",
      }),
    cache: modelCache,
    resources: modelResources,
  })
  .meta({
    description: "The model to serve.",
    ...rules(
      {
        rule: `${inClaim} || has(self.cache)`,
        message:
          "cache is required for a model that is downloaded: set cache.persistentVolumeClaim.claimName to a claim with room for it, or cache.ephemeral.sizeLimit",
        fieldPath: ".cache",
      },
      {
        rule: `!${inClaim} || !has(self.cache)`,
        message: "cache is for models that are downloaded: pvc:// names its claim itself",
        fieldPath: ".cache",
      },
      {
        rule: `!${inClaim} || !has(self.secretRef)`,
        message: "secretRef is for models that are downloaded: a claim needs none",
        fieldPath: ".secretRef",
      },
    ),
  });
