// The source hf://: a hub with Hugging Face's API. The revision is resolved once to a commit, and listings have SHA-256 of large files.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { filesMax, isFileName, jsonOf, type RemoteSource } from "./download-source.ts";
import { shown } from "./request.ts";

const publicHub = "https://huggingface.co";
const listingBytesMax = 64 * 1024 * 1024;

const infoSchema = z.object({
  sha: z.string().regex(/^[0-9a-f]{40,64}$/),
  siblings: z
    .array(
      z.object({
        rfilename: z.string(),
        size: z.int().min(0).nullish(),
        lfs: z.object({ sha256: z.string().nullish(), oid: z.string().nullish(), size: z.int().min(0).nullish() }).nullish(),
      }),
    )
    .max(filesMax),
});

export const hfSource: RemoteSource = (uri, { http, secret }) => {
  const [, repository = "", revision = "main"] = /^hf:\/\/([^@]+)(?:@(.+))?$/.exec(uri) ?? [];
  const hub = (secret("HF_ENDPOINT") ?? publicHub).replace(/\/+$/, "");
  const token = secret("HF_TOKEN");
  const headers: Readonly<Record<string, string>> = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return {
    async list() {
      const url = `${hub}/api/models/${repository}/revision/${encodeURIComponent(revision)}?blobs=true`;
      const text = await http.text({ url, headers }, listingBytesMax).catch((caught) => {
        throw tokenHint(AppError.from(caught), token);
      });
      const parsed = infoSchema.safeParse(jsonOf(text));
      if (!parsed.success) throw new AppError(`${shown({ url: hub })}: does not list ${repository} as a hub does`, { code: "BadSource" });
      const files = parsed.data.siblings.flatMap(({ rfilename: name, size, lfs }) => {
        const bytes = lfs?.size ?? size;
        if (!isFileName(name) || bytes === null || bytes === undefined) return []; // in a subfolder
        const sha256 = lfs?.sha256 ?? lfs?.oid;
        return [/^[0-9a-f]{64}$/.test(sha256 ?? "") ? { name, bytes, sha256: sha256 as string } : { name, bytes }];
      });
      return { revision: parsed.data.sha, files };
    },
    ask: async ({ name }, commit) => ({ url: `${hub}/${repository}/resolve/${commit ?? revision}/${name}`, headers }),
  };
};

/** A hub gives the same answer for private, gated and missing models. */
function tokenHint(error: AppError, token: string | undefined): AppError {
  if (error.code !== "SourceRefused") return error;
  const remedy = token === undefined ? "accept its terms on the hub and give an access token as HF_TOKEN" : "HF_TOKEN may not read it";
  return new AppError(`${error.message}; ${remedy}`, { code: error.code, cause: error });
}
