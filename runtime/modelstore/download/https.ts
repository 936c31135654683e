// The source https://: a GGUF (the first of its parts, if split), or a folder with the usual file names, since the web has no listings.
import { AppError } from "../../../crds/common.ts";
import { codecNames } from "../../../crds/names.ts";
import { companions } from "../../weights/model-folder.ts";
import { indexFile } from "../../weights/store-reader.ts";
import { isFileName, type RemoteFile, type RemoteSource } from "./download-source.ts";
import { shardIndex } from "./pick.ts";

const partsMax = 512;
const known = [
  ...["config.json", ...Object.keys(companions), indexFile, "dense.safetensors", shardIndex, "model.safetensors"],
  ...codecNames.map((codec) => `experts-${codec}.bin`),
];

export const httpsSource: RemoteSource = (uri, { http, secret }) => {
  const authorization = secret("AUTHORIZATION");
  const headers: Readonly<Record<string, string>> = authorization === undefined ? {} : { authorization };
  const folder = uri.slice(0, uri.lastIndexOf("/") + 1);
  const look = async (name: string): Promise<RemoteFile[]> => {
    const found = await http.head({ url: `${folder}${name}`, headers });
    return found ? [described(uri, name, found)] : [];
  };
  return {
    async list() {
      const file = uri.slice(folder.length);
      const names = file === "" ? known : partsOf(uri, file);
      const files = (await Promise.all(names.map(look))).flat();
      if (file !== "" && files.length < names.length)
        throw new AppError(`${uri}: is not there, or not all its parts`, { code: "SourceNotFound" });
      return { revision: undefined, files };
    },
    async describe(file) {
      const [found] = file.bytes > 0 ? [file] : await look(file.name);
      if (found) return found;
      throw new AppError(`${folder}${file.name}: is named by the index and not there`, { code: "SourceNotFound" });
    },
    ask: async ({ name }) => ({ url: `${folder}${name}`, headers }),
  };
};

function partsOf(uri: string, file: string): readonly string[] {
  const [, name, first, count] = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/.exec(file) ?? [];
  if (!file.endsWith(".gguf") || !isFileName(file))
    throw new AppError(`${uri}: must end with .gguf, or with / for a folder`, { code: "BadSource" });
  if (name === undefined) return [file];
  if (Number(first) !== 1 || Number(count) > partsMax)
    throw new AppError(`${uri}: name the first of at most ${partsMax} parts`, { code: "BadSource" });
  return Array.from({ length: Number(count) }, (_, index) => `${name}-${String(index + 1).padStart(5, "0")}-of-${count}.gguf`);
}

function described(uri: string, name: string, headers: Headers): RemoteFile {
  const bytes = Number(headers.get("x-linked-size") ?? headers.get("content-length") ?? Number.NaN);
  if (!Number.isSafeInteger(bytes) || bytes < 0)
    throw new AppError(`${uri}: the size of ${name} is not given (content-length), so nothing could be verified`, { code: "BadSource" });
  const etag = headers.get("etag");
  const sha256 = sha256Of(headers);
  return {
    name,
    bytes,
    ...(sha256 !== undefined && { sha256 }),
    // Weak tags do not identify bytes.
    ...(etag?.startsWith('"') && etag.length <= 256 && { etag }),
  };
}

/** A hub's tag of a large file is its SHA-256; others may use a header. */
function sha256Of(headers: Headers): string | undefined {
  const linked = /^"?([0-9a-f]{64})"?$/.exec(headers.get("x-linked-etag") ?? "")?.[1];
  const [, digest] = /(?:^|,\s*)sha-256=:([A-Za-z0-9+/]{43}=):/.exec(headers.get("repr-digest") ?? "") ?? [];
  return linked ?? (digest === undefined ? undefined : Buffer.from(digest, "base64").toString("hex"));
}
