// The product's images: the node binary with its libraries, production node_modules, and the TypeScript sources that node runs as they are.

import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { rootCertificates } from "node:tls";
import { ensureBinaries } from "./binaries.ts";
import type { Log } from "./exec.ts";
import { type BuiltImage, buildImage, type ImageConfig, type ImageFile, type ImageLayer, lddClosure } from "./image.ts";
import { ClusterError } from "./names.ts";
import { keepFile, keepSource, type Lockfile, productionPackages } from "./node-modules.ts";

/** The user of all product images; matches the pods' restricted security context. */
const imageUser = "65532:65532";
const nodePath = "/usr/local/bin/node";
export const sourceFolders: readonly string[] = ["operator", "runtime", "crds"];
/** Heavy native packages that only workers load. */
export const workerPackages: readonly string[] = ["@node-llama-cpp/linux-arm64", "@node-llama-cpp/linux-x64", "koffi"];

/** The library of training, which is in the image of training pods alone. */
export const trainingPackages: readonly string[] = ["onnxruntime-node"];

/** Names that C libraries look up, and certificates for TLS clients: what an empty root filesystem lacks. */
function systemFiles(): ImageFile[] {
  return [
    { path: "/etc/passwd", content: "root:x:0:0:root:/root:/sbin/nologin\nenodia:x:65532:65532:enodia:/tmp:/sbin/nologin\n" },
    { path: "/etc/group", content: "root:x:0:\nenodia:x:65532:\n" },
    { path: "/etc/nsswitch.conf", content: "passwd: files\ngroup: files\nhosts: files dns\n" },
    { path: "/etc/ssl/certs/ca-certificates.crt", content: `${rootCertificates.join("\n")}\n` },
    { path: "/tmp", folder: true, mode: 0o1777 },
  ];
}

/** The running node binary and its libraries; also what tests use as a base. */
export async function nodeLayer(): Promise<ImageLayer> {
  const major = Number(process.versions.node.split(".")[0]);
  if (major < 24) throw new ClusterError(`images hold the node that builds them, which must be 24 or newer (this is ${process.version})`);
  const node = realpathSync(process.execPath);
  const libraries = await lddClosure([node]);
  // Name resolution loads these by name on C libraries before 2.34.
  const folder = dirname(libraries.find((file) => /\/libc\.so/.test(file.path))?.path ?? "/lib/libc.so.6");
  const resolvers = ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"]
    .map((name) => join(folder, name))
    .filter((path) => existsSync(path));
  return {
    files: [
      ...systemFiles(),
      ...libraries,
      ...resolvers.map((path) => ({ path, source: path })),
      { path: nodePath, source: node, mode: 0o755 },
    ],
  };
}

function filesBelow(folder: string, below = ""): string[] {
  return readdirSync(join(folder, below), { withFileTypes: true }).flatMap((entry) => {
    const path = below === "" ? entry.name : `${below}/${entry.name}`;
    if (entry.isDirectory()) return entry.name === "node_modules" ? [] : filesBelow(folder, path);
    return entry.isFile() ? [path] : [];
  });
}

function packageFiles(repo: string, exclude: readonly string[]): ImageFile[] {
  const lock = JSON.parse(readFileSync(join(repo, "package-lock.json"), "utf8")) as Lockfile;
  return productionPackages(lock, exclude).flatMap((folder) => {
    if (!existsSync(join(repo, folder))) return [];
    const name = folder.slice(folder.lastIndexOf("node_modules/") + "node_modules/".length);
    return filesBelow(join(repo, folder))
      .filter((path) => keepFile(name, path, process.arch))
      .map((path) => ({ path: `/app/${folder}/${path}`, source: join(repo, folder, path) }));
  });
}

function productSources(repo: string): ImageLayer {
  const files = sourceFolders
    .filter((folder) => existsSync(join(repo, folder)))
    .flatMap((folder) =>
      filesBelow(join(repo, folder))
        .filter(keepSource)
        .map((path) => `${folder}/${path}`),
    );
  return { files: [...files, "package.json"].map((path) => ({ path: `/app/${path}`, source: join(repo, path), mode: 0o644 })) };
}

/** Libraries of native addons that the base layer does not have. */
async function addonLibraries(packages: readonly ImageFile[], base: ImageLayer): Promise<ImageFile[]> {
  const native = packages.flatMap((file) => (file.source !== undefined && /\.(node|so)(\.\d+)*$/.test(file.path) ? [file.source] : []));
  const have = new Set(base.files.map((file) => file.path));
  const folders = [...new Set(native.map((path) => dirname(path)))];
  const closure = await lddClosure(native, { libraryPath: folders.join(":") });
  return closure.filter((file) => !have.has(file.path) && !folders.includes(dirname(file.path)));
}

/** The same of a layer on top of several. */
async function missingLibraries(packages: readonly ImageFile[], below: readonly ImageLayer[]): Promise<ImageFile[]> {
  return addonLibraries(packages, { files: below.flatMap(({ files }) => files) });
}

const nodeConfig = (main: readonly string[], env: Readonly<Record<string, string>> = {}): ImageConfig => ({
  entrypoint: [nodePath],
  cmd: main,
  user: imageUser,
  workdir: "/app",
  env: {
    PATH: "/usr/local/bin:/usr/bin:/bin",
    HOME: "/tmp",
    NODE_ENV: "production",
    NODE_OPTIONS: "--disable-warning=ExperimentalWarning",
    ...env,
  },
});

/** The same as in the Dockerfiles of the released images, to which a test compares them; PATH is there that of the base image. */
export const imageConfigs = {
  operator: nodeConfig(["operator/main.ts"]),
  runtime: nodeConfig(["runtime/main.ts", "worker"]),
  training: nodeConfig(["runtime/main.ts", "trainer"]),
} as const;

interface ProductImagesOptions {
  /** The repository, with node_modules installed. */
  readonly repo: string;
  /** Folder for the tars. */
  readonly out: string;
  readonly log?: Log;
  readonly tag?: string;
  /** Looked at between images. */
  readonly signal?: AbortSignal | undefined;
}

interface ProductImages {
  readonly operator: BuiltImage;
  readonly runtime: BuiltImage;
  readonly training: BuiltImage;
  readonly nats: BuiltImage;
}

/**
 * Builds enodia/operator, enodia/runtime, enodia/training and enodia/nats as tars below `out`. A pod's `args` give the
 * script: `operator/main.ts`, or `runtime/main.ts <role>`.
 */
export async function buildProductImages(options: ProductImagesOptions): Promise<ProductImages> {
  const { repo, out } = options;
  const log = options.log ?? (() => undefined);
  const tag = options.tag ?? "dev";
  if (!existsSync(join(repo, "node_modules"))) throw new ClusterError(`${repo} has no node_modules: run "npm ci" there first`);
  const base = await nodeLayer();
  const sources = productSources(repo);
  const build = async (name: string, layers: readonly ImageLayer[], config: ImageConfig): Promise<BuiltImage> => {
    options.signal?.throwIfAborted();
    const image = await buildImage({ ref: `enodia/${name}:${tag}`, layers, config, out: join(out, `${name}.tar`) });
    log(`image ${image.ref}: ${Math.round(image.bytes / 1e6)} MB`);
    return image;
  };
  const operator = await build(
    "operator",
    [base, { files: packageFiles(repo, [...workerPackages, ...trainingPackages]) }, sources],
    imageConfigs.operator,
  );
  const packages = packageFiles(repo, trainingPackages);
  const runtimeLayers = [base, { files: [...packages, ...(await addonLibraries(packages, base))] }, sources];
  const runtime = await build("runtime", runtimeLayers, imageConfigs.runtime);
  const have = new Set(packages.map(({ path }) => path));
  const trainers = packageFiles(repo, []).filter(({ path }) => !have.has(path));
  const trainingLayers = [...runtimeLayers, { files: [...trainers, ...(await missingLibraries(trainers, runtimeLayers))] }];
  const training = await build("training", trainingLayers, imageConfigs.training);
  const { "nats-server": natsServer } = await ensureBinaries(log, { only: ["nats-server"] });
  const natsFiles = [...systemFiles(), { path: "/usr/local/bin/nats-server", source: natsServer, mode: 0o755 }];
  const nats = await build("nats", [{ files: natsFiles }], {
    entrypoint: ["/usr/local/bin/nats-server"],
    user: imageUser,
    workdir: "/tmp",
  });
  return { operator, runtime, training, nats };
}
