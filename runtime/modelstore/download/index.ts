// Downloads models: the registry of sources, and URI to files. A killed download resumes with the same commit.
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { type RemoteSourceName, remoteSourceOf, remoteSources } from "../../../crds/model.ts";
import type { CodecName } from "../../../crds/names.ts";
import {
  type Access,
  jsonOf,
  type Listing,
  type RemoteFile,
  type RemoteModel,
  type RemoteSource,
  remoteFileSchema,
} from "./download-source.ts";
import { downloadFiles, type FilesOptions } from "./files.ts";
import { hfSource } from "./hf.ts";
import { Http, type HttpOptions } from "./http.ts";
import { httpsSource } from "./https.ts";
import { type Picked, pickFiles, shardIndex } from "./pick.ts";
import { s3Source } from "./s3.ts";

const sources: Readonly<Record<RemoteSourceName, RemoteSource>> = { hf: hfSource, s3: s3Source, https: httpsSource };

const indexBytesMax = 64 * 1024 * 1024;
const modelFilesMax = 2_000;
const manifestSchema = z.object({
  uri: z.string(),
  revision: z.string().optional(),
  kind: z.enum(["store", "folder", "gguf"]),
  files: z.array(remoteFileSchema).min(1).max(modelFilesMax),
});
type Manifest = z.infer<typeof manifestSchema>;
const manifestName = "manifest.json";

export interface DownloadOptions extends Pick<FilesOptions, "connections" | "pieceBytes" | "onStart" | "onBytes"> {
  readonly uri: string;
  /** Holds files and download state. */
  readonly work: string;
  readonly secret: Access["secret"];
  /** Store codecs; default all. */
  readonly codecs?: readonly CodecName[] | undefined;
  /** Disk space needed beside the download. */
  readonly spareBytes?: (downloaded: number, kind: Picked["kind"]) => number;
  readonly onListed?: (revision: string | undefined) => void;
  readonly http?: HttpOptions;
}

export interface Downloaded {
  readonly kind: Picked["kind"];
  readonly revision: string | undefined;
  /** A folder, or the first GGUF file. */
  readonly path: string;
}

export async function downloadModel(options: DownloadOptions): Promise<Downloaded> {
  const { uri, work, secret, spareBytes = () => 0, onListed } = options;
  const stop = new AbortController();
  const outer = options.http?.signal;
  const signal = outer ? AbortSignal.any([outer, stop.signal]) : stop.signal;
  const http = new Http({ ...options.http, signal });
  const model = modelOf(uri, { http, secret });
  const dir = join(work, "files");
  await mkdir(work, { recursive: true });
  const manifest = (await readManifest(options)) ?? (await list(model, http, options));
  onListed?.(manifest.revision);
  const total = manifest.files.reduce((sum, { bytes }) => sum + bytes, 0);
  try {
    await downloadFiles({
      ...options,
      files: manifest.files,
      dir,
      http,
      stop: () => stop.abort(),
      ask: (file) => model.ask(file, manifest.revision),
      spareBytes: spareBytes(total, manifest.kind),
    });
  } catch (caught) {
    throw await afterChange(AppError.from(caught), work);
  }
  const [first] = manifest.files;
  const path = manifest.kind === "gguf" && first ? join(dir, first.name) : dir;
  return { kind: manifest.kind, revision: manifest.revision, path };
}

function modelOf(uri: string, access: Access): RemoteModel {
  const name = remoteSourceOf(uri);
  if (name !== undefined) return sources[name](uri, access);
  const known = Object.values(remoteSources).map(({ form }) => form);
  throw new AppError(`"${uri}" is nothing that is downloaded; known are ${known.join(", ")}`, { code: "BadSource" });
}

async function afterChange(error: AppError, work: string): Promise<AppError> {
  if (error.code !== "SourceChanged") return error;
  await rm(join(work, manifestName), { force: true });
  return new AppError(error.message, { code: error.code, cause: error, retry: "backoff" });
}

async function readManifest({ uri, work }: DownloadOptions): Promise<Manifest | undefined> {
  const text = await readFile(join(work, manifestName), "utf8").catch(() => undefined);
  const parsed = manifestSchema.safeParse(jsonOf(text ?? "")); // a listing may be truncated
  return parsed.success && parsed.data.uri === uri ? parsed.data : undefined;
}

interface AskOptions extends Pick<DownloadOptions, "uri" | "secret" | "codecs"> {
  /** The time for which a busy or silent source is asked again. */
  readonly withinMs: number;
}

/** Throws AppError with the last reason why the source could not be read. */
export async function askSource({ uri, secret, codecs, withinMs }: AskOptions) {
  const signal = AbortSignal.timeout(withinMs);
  let last: string | undefined;
  const http = new Http({ signal, onWait: (message) => (last = message) });
  try {
    const { kind, revision, files } = await manifestOf(modelOf(uri, { http, secret }), http, { uri, codecs });
    return { kind, revision, files: files.length, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) };
  } catch (caught) {
    if (!signal.aborted || last === undefined) throw caught;
    throw new AppError(last.replace(/; trying again in .*/, ""), { code: "SourceUnavailable", cause: caught, retry: "backoff" });
  }
}

async function list(model: RemoteModel, http: Http, options: DownloadOptions): Promise<Manifest> {
  const { work } = options;
  const manifest = await manifestOf(model, http, options);
  const path = join(work, manifestName);
  // Files of an earlier listing may have equal sizes and other bytes.
  await rm(join(work, "files"), { recursive: true, force: true });
  await mkdir(join(work, "files"), { recursive: true });
  await writeFile(`${path}.tmp`, JSON.stringify(manifest));
  await rename(`${path}.tmp`, path);
  return manifest;
}

async function manifestOf(model: RemoteModel, http: Http, { uri, codecs }: Pick<DownloadOptions, "uri" | "codecs">): Promise<Manifest> {
  const listing = await model.list();
  const shards = await shardsOf(model, http, listing);
  const all = [...listing.files.map(({ name }) => name), ...(shards ?? [])];
  const { kind, names } = pickFiles(uri, all, { codecs, shards });
  const known = new Map(listing.files.map((file) => [file.name, file]));
  const files: RemoteFile[] = [];
  for (const name of names) {
    const file = known.get(name) ?? { name, bytes: 0 };
    files.push((await model.describe?.(file)) ?? file);
  }
  const parsed = manifestSchema.safeParse({ uri, kind, files, ...(listing.revision !== undefined && { revision: listing.revision }) });
  if (!parsed.success)
    throw new AppError(`${uri}: lists files that no model has (${z.prettifyError(parsed.error)})`, { code: "BadSource" });
  return parsed.data;
}

const weightMap = z.object({ weight_map: z.record(z.string(), z.string().regex(/^(?!\.)[\w.-]+\.safetensors$/)) });

/** Files that the shard index names. */
async function shardsOf(model: RemoteModel, http: Http, { files, revision }: Listing): Promise<readonly string[] | undefined> {
  const index = files.find(({ name }) => name === shardIndex);
  if (index === undefined) return undefined;
  const text = await http.text(await model.ask(index, revision), indexBytesMax);
  const parsed = weightMap.safeParse(jsonOf(text));
  if (!parsed.success) throw new AppError(`${shardIndex} names files oddly`, { code: "BadSafetensors" });
  return [...new Set(Object.values(parsed.data.weight_map))].sort();
}
