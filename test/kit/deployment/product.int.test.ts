// The images that `npm run demo` asks a cluster for, as Helm renders them.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { ensureBinaries } from "../../cluster/binaries.ts";
import { execOk } from "../processes/process.ts";
import { imageValues, productVersion, release, root } from "./product.ts";

/** Images of the chart's own pods, and the one that the operator gives to workers and gateways. */
async function renderedImages(registry: string | undefined): Promise<string[]> {
  const { helm } = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only: ["helm"] });
  const sets = ["nats.enabled=true", ...imageValues(registry)].flatMap((value) => ["--set", value]);
  const text = await execOk(helm, ["template", release, join(root, "charts/enodia"), "--skip-tests", ...sets]);
  const images = [...text.matchAll(/^\s+image: (\S+)$/gm), ...text.matchAll(/name: ENODIA_RUNTIME_IMAGE\n\s+value: "(\S+)"$/gm)];
  return images.map((match) => match[1] ?? "").sort();
}

const three = (prefix: string, tag: string): string[] => ["nats", "operator", "runtime"].map((name) => `${prefix}enodia/${name}:${tag}`);

test("on a local cluster the chart names the images that were loaded into the nodes", async () => {
  assert.deepEqual(await renderedImages(undefined), three("", "dev"));
});

test("with --image-registry all three images come from there, with the version of this checkout as tag", async () => {
  assert.deepEqual(await renderedImages("registry.example.com:5000/team"), three("registry.example.com:5000/team/", productVersion()));
});
