// The source s3://, for AWS and compatible servers. Requests are signed if there are credentials; public buckets need none.
import { AwsClient } from "aws4fetch";
import { XMLParser } from "fast-xml-parser";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { type Access, filesMax, isFileName, type RemoteFile, type RemoteSource } from "./download-source.ts";
import type { Ask } from "./request.ts";

const pageBytesMax = 16 * 1024 * 1024;
const pageKeys = 1000;
/** Pages also list foreign keys. */
const pagesMax = 200;
const defaultRegion = "us-east-1";

const pageSchema = z.object({
  ListBucketResult: z.object({
    IsTruncated: z.enum(["true", "false"]),
    NextContinuationToken: z.string().optional(),
    Contents: z
      .array(z.object({ Key: z.string(), Size: z.coerce.number<string>().int().min(0), ETag: z.string() }))
      .max(pageKeys)
      .default([]),
  }),
});
// Values stay text, since a key may look like a number.
const xml = new XMLParser({ parseTagValue: false, isArray: (name) => name === "Contents" });

export const s3Source: RemoteSource = (uri, access) => {
  const [, bucket = "", rest = ""] = /^s3:\/\/([^/]+)\/(.*)$/.exec(uri) ?? [];
  const prefix = `${rest.replace(/\/+$/, "")}/`;
  const bucketUrl = urlOf(bucket, access);
  const sign = signer(access);
  const keyUrl = (name: string): string => `${bucketUrl}/${[...prefix.split("/").slice(0, -1), name].map(encodeURIComponent).join("/")}`;
  return {
    async list() {
      const files: RemoteFile[] = [];
      let token: string | undefined;
      for (let pages = 0; pages === 0 || token !== undefined; pages++) {
        if (pages === pagesMax || files.length > filesMax) throw tooMany(uri, pages);
        const query = new URLSearchParams({ "list-type": "2", "max-keys": String(pageKeys), prefix, delimiter: "/" });
        if (token !== undefined) query.set("continuation-token", token);
        const page = pageOf(uri, await access.http.text(await sign(`${bucketUrl}?${query}`), pageBytesMax));
        files.push(...filesOf(page, prefix));
        token = page.IsTruncated === "true" ? page.NextContinuationToken : undefined;
      }
      if (files.length > 0) return { revision: undefined, files };
      throw new AppError(`${uri}: nothing is there; the bucket or the prefix has another name`, { code: "SourceNotFound" });
    },
    async describe(file) {
      const url = keyUrl(file.name);
      const headers = await access.http.head(await sign(url, "HEAD", { "x-amz-checksum-mode": "ENABLED" }));
      const sum = headers?.get("x-amz-checksum-sha256") ?? "";
      // Sums of multipart uploads end with the number of parts and do not cover the whole.
      return /^[A-Za-z0-9+/]{43}=$/.test(sum) ? { ...file, sha256: Buffer.from(sum, "base64").toString("hex") } : file;
    },
    ask: ({ name, etag }) => sign(keyUrl(name), "GET", etag === undefined ? {} : { "if-match": etag }),
  };
};

type Page = z.infer<typeof pageSchema>["ListBucketResult"];

function filesOf({ Contents }: Page, prefix: string): RemoteFile[] {
  const files = Contents.map(({ Key, Size, ETag }) => ({ name: Key.slice(prefix.length), bytes: Size, etag: ETag }));
  return files.filter(({ name }) => isFileName(name));
}

function tooMany(uri: string, pages: number): AppError {
  const what = `lists more than a model has (${pages} pages of ${pageKeys} keys)`;
  return new AppError(`${uri}: ${what}; give the model a prefix of its own`, { code: "BadSource" });
}

function pageOf(uri: string, text: string): Page {
  const parsed = pageSchema.safeParse(parseXml(text));
  if (parsed.success) return parsed.data.ListBucketResult;
  throw new AppError(`${uri}: the bucket is not listed as S3 does (${z.prettifyError(parsed.error)})`, { code: "BadSource" });
}

function parseXml(text: string): unknown {
  try {
    return xml.parse(text);
  } catch {
    return undefined;
  }
}

/** Path style for a given endpoint, whose certificate would not cover bucket hosts; else host style. */
function urlOf(bucket: string, { secret }: Access): string {
  const endpoint = secret("AWS_ENDPOINT_URL");
  if (endpoint !== undefined) return `${endpoint.replace(/\/+$/, "")}/${bucket}`;
  const host = `s3.${secret("AWS_REGION") ?? defaultRegion}.amazonaws.com`;
  return bucket.includes(".") ? `https://${host}/${bucket}` : `https://${bucket}.${host}`;
}

type Signer = (url: string, method?: string, headers?: Record<string, string>) => Promise<Ask>;

function signer({ secret }: Access): Signer {
  const [accessKeyId, secretAccessKey, sessionToken] = (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] as const).map(
    secret,
  );
  if (!accessKeyId || !secretAccessKey) return async (url, _method, headers = {}) => ({ url, headers });
  const region = secret("AWS_REGION") ?? defaultRegion;
  const client = new AwsClient({
    accessKeyId,
    secretAccessKey,
    service: "s3",
    region,
    ...(sessionToken !== undefined && { sessionToken }),
  });
  return async (url, method = "GET", headers = {}) => {
    const signed = await client.sign(url, { method, headers });
    return { url: signed.url, headers: Object.fromEntries(signed.headers) };
  };
}
