// The operator's protocol with a download pod: environment, progress and end message. Both sides parse untrusted input.
import { z } from "zod";
import { paths, ports } from "./common.ts";
import type { MoEDeployment } from "./moe-deployment.ts";
import { codecNames, defaultLogLevel, logLevels } from "./names.ts";
import { settingRefs } from "./process.ts";
import { endFile } from "./process-end.ts";
import { rowsFrom, type SettingsOf, settings } from "./variables.ts";

export const downloaderComponent = "downloader";
export const progressPath = "/progress";
export const progressBytesMax = 16_384;

/** Link-local addresses and metadata services of clouds: no model is there, and what is may be secret. */
export const forbiddenRanges = {
  ipv4: ["169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32"],
  ipv6: ["fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128", "64:ff9b::a9fe:0/112"],
} as const;

/** What the operator posts to a weight server: the uids of the pods that it may serve. */
export const membersSchema = z.object({ members: z.array(z.string().max(64)).max(4096) });
export const membersBytesMax = 512 * 1024;

/** A retry cannot help. */
export const hopelessExitCode = 3;

const downloadPhases = ["Starting", "Listing", "Downloading", "Importing", "Done"] as const;
export type DownloadPhase = (typeof downloadPhases)[number];

const bytes = z.int().min(0);
const text = z.string().max(1024);
/** Newer pods may add fields. */
export const downloadProgressSchema = z.object({
  pod: z.string().min(1).max(64),
  phase: z.enum(downloadPhases),
  doneBytes: bytes,
  /** 0 while unknown. */
  totalBytes: bytes,
  bytesPerSecond: bytes,
  /** The resolved commit, for sources with revisions. */
  revision: z.string().max(256).optional(),
  /** Reports waits for a busy source, for example. */
  message: text,
  /** PascalCase; why the last try failed. */
  reason: z
    .string()
    .regex(/^[A-Za-z]{1,64}$/)
    .optional(),
});
export type DownloadProgress = z.infer<typeof downloadProgressSchema>;

const downloadEndSchema = z.object({
  /** PascalCase; Done on success. */
  reason: z.string().regex(/^[A-Za-z]{1,64}$/),
  message: z.string().max(2048),
  revision: z.string().max(256).optional(),
});
export type DownloadEnd = z.infer<typeof downloadEndSchema>;

/** Fits the kubelet's limit. */
export const downloadEndText = ({ message, ...end }: DownloadEnd): string => JSON.stringify({ ...end, message: message.slice(0, 1500) });

/** Undefined where the message is none of ours. */
export function readDownloadEnd(message: string): DownloadEnd | undefined {
  try {
    return downloadEndSchema.safeParse(JSON.parse(message)).data;
  } catch {
    return undefined;
  }
}

export interface DownloadFacts {
  readonly deployment: MoEDeployment;
  /** The work folder becomes the store's. */
  readonly folder: string;
  readonly work: string;
  /** The list of all deployments in the namespace; undefined where incomplete. */
  readonly workInUse: readonly string[] | undefined;
  readonly settingsMap: string;
}

const { rendered } = rowsFrom<DownloadFacts>();
const { name, uid, port, texts } = settings;
const path = settings.path.min(1);
const setting = settingRefs<DownloadFacts>();
export const downloaderProcess = {
  namespace: rendered("ENODIA_NAMESPACE", name, ({ deployment }) => deployment.metadata.namespace),
  deployment: rendered("ENODIA_DEPLOYMENT", name, ({ deployment }) => deployment.metadata.name),
  podUid: rendered("ENODIA_POD_UID", uid, () => ({ fieldPath: "metadata.uid" })),
  uri: rendered("ENODIA_MODEL_URI", z.string().min(1).max(512), ({ deployment }) => deployment.spec.model.uri),
  codec: rendered("ENODIA_EXPERT_CODEC", z.enum(codecNames), ({ deployment }) => deployment.spec.runtime.expertCodec),
  target: rendered("ENODIA_MODEL_PATH", path, ({ folder }) => `${paths.models}/${folder}`),
  work: rendered("ENODIA_MODEL_WORK", path, ({ work }) => `${paths.models}/${work}`),
  /** Folders to keep at any age; unset: the pod removes none. */
  workInUse: rendered("ENODIA_MODEL_WORK_IN_USE", texts(65_536).optional(), ({ workInUse }) => workInUse?.join(",")),
  secretDir: rendered("ENODIA_MODEL_SECRET", path.optional(), ({ deployment }) =>
    deployment.spec.model.secretRef ? paths.modelSecret : undefined,
  ),
  hub: rendered("HF_ENDPOINT", z.url().optional(), setting("HF_ENDPOINT")),
  tlsDir: rendered("ENODIA_TLS_DIR", z.string().default(paths.tls), () => paths.tls),
  progressPort: rendered("ENODIA_PROGRESS_PORT", port.default(ports.progress), () => String(ports.progress)),
  endFile: rendered("ENODIA_DOWNLOAD_END", path, () => endFile),
  logLevel: rendered("ENODIA_LOG_LEVEL", z.enum(logLevels).default(defaultLogLevel), setting("ENODIA_LOG_LEVEL")),
};
export type DownloaderSettings = SettingsOf<typeof downloaderProcess>;
