// The contract between the operator and the pod that downloads a model: its environment, what it answers when asked how far it is, and
// the message of its end. Both sides parse what the other says. Pure.
import { z } from "zod";
import { paths, ports } from "./common.ts";
import type { MoEDeployment } from "./moe-deployment.ts";
import { codecNames, defaultLogLevel, logLevels } from "./names.ts";
import { settingRefs } from "./process.ts";
import { rowsFrom, type SettingsOf } from "./variables.ts";

/** The value of the label component of the pod and of its Job. */
export const downloaderComponent = "downloader";
export const progressPath = "/progress";
/** Bytes of an answer, at most. */
export const progressBytesMax = 16_384;

/** The kubelet reads there what a container says of its end. */
const endFile = "/dev/termination-log";
/** Exit code of a download that another try cannot mend: the Job fails at once. */
export const hopelessExitCode = 3;

const downloadPhases = ["Starting", "Listing", "Downloading", "Importing", "Done"] as const;
export type DownloadPhase = (typeof downloadPhases)[number];

const bytes = z.int().min(0);
const text = z.string().max(1024);
/** What the pod answers. Newer pods may say more. */
export const downloadWordsSchema = z.object({
  pod: z.string().min(1).max(64),
  phase: z.enum(downloadPhases),
  doneBytes: bytes,
  /** 0 while it is not known. */
  totalBytes: bytes,
  bytesPerSecond: bytes,
  /** The commit that the revision stood for, where the source has such a thing. */
  revision: z.string().max(256).optional(),
  /** What it does besides, such as waiting for a source that is busy. */
  message: text,
  /** PascalCase; of a try that failed, when the next one waits. */
  reason: z
    .string()
    .regex(/^[A-Za-z]{1,64}$/)
    .optional(),
});
export type DownloadWords = z.infer<typeof downloadWordsSchema>;

/** The message of a container's end. */
const downloadEndSchema = z.object({
  /** PascalCase; Done where it has succeeded. */
  reason: z.string().regex(/^[A-Za-z]{1,64}$/),
  message: z.string().max(2048),
  revision: z.string().max(256).optional(),
});
export type DownloadEnd = z.infer<typeof downloadEndSchema>;

/** Cut to what the kubelet keeps. */
export const downloadEndText = ({ message, ...end }: DownloadEnd): string => JSON.stringify({ ...end, message: message.slice(0, 1500) });

/** The end that a message tells; undefined where it tells none. */
export function readDownloadEnd(message: string): DownloadEnd | undefined {
  try {
    return downloadEndSchema.safeParse(JSON.parse(message)).data;
  } catch {
    return undefined;
  }
}

export interface DownloadFacts {
  readonly deployment: MoEDeployment;
  /** Folder of the store in the claim, and the one that is worked in until the store is whole. */
  readonly folder: string;
  readonly work: string;
  /** Work folders of all deployments of the namespace, this one too; undefined where it is not known of all. */
  readonly workInUse: readonly string[] | undefined;
  /** Name of the ConfigMap with the operator's settings. */
  readonly settingsMap: string;
}

const { rendered } = rowsFrom<DownloadFacts>();
const name = z.string().min(1).max(253);
const path = z.string().min(1).max(1024);
const names = z
  .string()
  .max(65_536)
  .transform((text) => text.split(","));
const setting = settingRefs<DownloadFacts>();
export const downloaderProcess = {
  namespace: rendered("ENODIA_NAMESPACE", name, ({ deployment }) => deployment.metadata.namespace),
  deployment: rendered("ENODIA_DEPLOYMENT", name, ({ deployment }) => deployment.metadata.name),
  podUid: rendered("ENODIA_POD_UID", z.string().min(1).max(64), () => ({ fieldPath: "metadata.uid" })),
  uri: rendered("ENODIA_MODEL_URI", z.string().min(1).max(512), ({ deployment }) => deployment.spec.model.uri),
  codec: rendered("ENODIA_EXPERT_CODEC", z.enum(codecNames), ({ deployment }) => deployment.spec.runtime.expertCodec),
  target: rendered("ENODIA_MODEL_PATH", path, ({ folder }) => `${paths.models}/${folder}`),
  work: rendered("ENODIA_MODEL_WORK", path, ({ work }) => `${paths.models}/${work}`),
  /** Names of work folders that are not to be removed, whatever their age; unset: none is. */
  workInUse: rendered("ENODIA_MODEL_WORK_IN_USE", names.optional(), ({ workInUse }) => workInUse?.join(",")),
  /** The folder with the keys of the Secret; unset where there is none. */
  secretDir: rendered("ENODIA_MODEL_SECRET", path.optional(), ({ deployment }) =>
    deployment.spec.model.secretRef ? paths.modelSecret : undefined,
  ),
  hub: rendered("HF_ENDPOINT", z.url().optional(), setting("HF_ENDPOINT")),
  tlsDir: rendered("ENODIA_TLS_DIR", z.string().default(paths.tls), () => paths.tls),
  progressPort: rendered("ENODIA_PROGRESS_PORT", z.coerce.number<string>().int().min(0).max(65_535).default(ports.progress), () =>
    String(ports.progress),
  ),
  endFile: rendered("ENODIA_DOWNLOAD_END", path, () => endFile),
  logLevel: rendered("ENODIA_LOG_LEVEL", z.enum(logLevels).default(defaultLogLevel), setting("ENODIA_LOG_LEVEL")),
};
export type DownloaderSettings = SettingsOf<typeof downloaderProcess>;
