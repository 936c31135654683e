// A real server that speaks S3, for tests: moto from PyPI, in a virtual environment in the cache. It checks signatures and rights, once its
// bucket is filled.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { SourceSecret } from "../../../crds/model.ts";
import { cacheRoot } from "../../cluster/binaries.ts";
import { execOk } from "../processes/process.ts";

const version = "5.2.5";

async function environment(): Promise<string> {
  const folder = join(cacheRoot(), `moto-${version}`);
  if (existsSync(join(folder, "ready"))) return folder;
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(cacheRoot(), { recursive: true });
  await execOk("python3", ["-m", "venv", folder]);
  await execOk(join(folder, "bin/python"), ["-m", "pip", "install", "--quiet", `moto[s3,iam,server]==${version}`]);
  writeFileSync(join(folder, "ready"), "");
  return folder;
}

/** A bucket with these objects, and a user who may read it and nothing else; prints the user's keys. */
const fill = `
import json, os, sys
import boto3
given = json.load(sys.stdin)
keys = dict(endpoint_url=given["endpoint"], region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x")
s3, iam = boto3.client("s3", **keys), boto3.client("iam", **keys)
s3.create_bucket(Bucket=given["bucket"], CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
for name, hexed in given["files"].items():
    s3.put_object(Bucket=given["bucket"], Key=given["prefix"] + name, Body=bytes.fromhex(hexed), ChecksumAlgorithm="SHA256", ACL="public-read")
for i in range(given["others"]):
    s3.put_object(Bucket=given["bucket"], Key=f"{given['prefix']}other-{i:05}.txt", Body=b"")
iam.create_user(UserName="reader")
statement = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
print(json.dumps(iam.create_access_key(UserName="reader")["AccessKey"], default=str))
`;

export interface Bucket {
  readonly port: number;
  readonly bucket: string;
  readonly prefix: string;
  readonly files: Readonly<Record<string, Buffer>>;
  /** Objects beside them, so that a listing has several pages. */
  readonly others: number;
}

export interface MotoServer {
  readonly server: ChildProcess;
  /** From then on no request is checked; objects may be read by everybody. */
  open(): Promise<void>;
  readonly reader: Partial<Record<SourceSecret, string>>;
}

export async function motoServer({ port, bucket, prefix, files, others }: Bucket): Promise<MotoServer> {
  const folder = await environment();
  const endpoint = `http://127.0.0.1:${port}`;
  const server = spawn(join(folder, "bin/moto_server"), ["-H", "127.0.0.1", "-p", String(port)], { stdio: ["ignore", "ignore", "ignore"] });
  for (let tries = 0; tries < 300; tries++) {
    if (
      await fetch(endpoint).then(
        () => true,
        () => false,
      )
    )
      break;
    await sleep(100);
  }
  const hexed = Object.fromEntries(Object.entries(files).map(([name, bytes]) => [name, bytes.toString("hex")]));
  const input = JSON.stringify({ endpoint, bucket, prefix, others, files: hexed });
  const { AccessKeyId, SecretAccessKey } = JSON.parse(await execOk(join(folder, "bin/python"), ["-c", fill], { input }));
  // From here on every request is checked.
  const unchecked = async (requests: string) => void (await fetch(`${endpoint}/moto-api/reset-auth`, { method: "POST", body: requests }));
  await unchecked("0");
  const reader = {
    AWS_ENDPOINT_URL: endpoint,
    AWS_REGION: "eu-central-1",
    AWS_ACCESS_KEY_ID: AccessKeyId,
    AWS_SECRET_ACCESS_KEY: SecretAccessKey,
  };
  return { server, open: () => unchecked("inf"), reader };
}
