// A release as data: the images of the Dockerfiles and of the chart, digests everywhere, and what stands against a release.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import packageJson from "../../package.json" with { type: "json" };
import { buildCommand, type Facts, images, pinnedValues, releaseFaults, signCommand } from "./steps.ts";

const root = join(import.meta.dirname, "../..");
const read = (file: string): string => readFileSync(join(root, file), "utf8");
const place = { registry: "registry.example.com/team", version: "1.2.3", out: "out/release" };
const digestOf = ({ dockerfile }: { readonly dockerfile: string }): string =>
  `sha256:${Buffer.from(dockerfile).toString("hex").padEnd(64, "0").slice(0, 64)}`;

test("every Dockerfile of the product is an image of the release, built for amd64 and, but for GPUs, for arm64", () => {
  assert.deepEqual(images.map(({ dockerfile }) => dockerfile).sort(), globSync("{operator,runtime}/Dockerfile*", { cwd: root }).sort());
  for (const { suffix, platforms } of images) assert.deepEqual(platforms, suffix === "" ? ["linux/amd64", "linux/arm64"] : ["linux/amd64"]);
});

test("images that a Dockerfile builds on the runtime are built after it, on its digest, and no other names one", () => {
  for (const [place_, image] of images.entries()) {
    const takes = /^ARG RUNTIME=/m.test(read(image.dockerfile));
    assert.equal(image.onRuntime ?? false, takes, image.dockerfile);
    const command = buildCommand(place, image, "sha256:abc").join(" ");
    assert.equal(command.includes("--build-arg RUNTIME=registry.example.com/team/enodia/runtime@sha256:abc"), takes);
    assert.match(command, /--sbom=true --provenance=mode=max/);
    if (takes) assert.ok(place_ > images.findIndex(({ dockerfile }) => dockerfile === "runtime/Dockerfile"));
  }
});

test("of no two images tag or metadata is the same", () => {
  const of = (flag: string) => images.map((image) => buildCommand(place, image, "d")).map((argv) => argv[argv.indexOf(flag) + 1]);
  assert.equal(new Set(of("--tag")).size, images.length);
  assert.equal(new Set(of("--metadata-file")).size, images.length);
  assert.ok(of("--tag").includes("registry.example.com/team/enodia/runtime:1.2.3-cuda"));
});

test("what is signed is a digest, never a tag", () => {
  for (const image of images) assert.match(signCommand(place, image, digestOf(image)).at(-1) ?? "", /^[^:]+@sha256:[0-9a-f]{64}$/);
});

test("the released chart names every image of this project where it was pushed, by digest, and says all else as before", () => {
  const text = read("charts/enodia/values.yaml");
  const [was, is] = [parse(text), parse(pinnedValues(text, place, digestOf))];
  const own = Object.keys(was).filter((key) => /^enodia\//.test(was[key]?.repository ?? ""));
  assert.deepEqual(images.flatMap(({ value }) => value ?? []).sort(), own.sort());
  for (const { value, name, dockerfile } of images) {
    if (value === undefined) continue;
    assert.equal(is[value].repository, `registry.example.com/team/enodia/${name}`);
    assert.equal(is[value].digest, digestOf({ dockerfile }));
    Object.assign(is[value], { repository: was[value].repository, digest: "" });
  }
  assert.deepEqual(is, was);
});

const good: Facts = {
  version: "1.2.3",
  chart: { version: "1.2.3", appVersion: "1.2.3" },
  changelog: "# C\n\n## 1.2.3 - 2026-01-01\nx",
  tag: "v1.2.3",
  changes: "",
};
const bad: Readonly<Record<string, readonly [Partial<Facts>, RegExp]>> = {
  "another chart version": [{ chart: { version: "1.2.2", appVersion: "1.2.3" } }, /Chart\.yaml version is 1\.2\.2/],
  "another appVersion": [{ chart: { version: "1.2.3", appVersion: "1.2" } }, /appVersion is 1\.2,/],
  "another tag": [{ tag: "v1.2.4" }, /tag v1\.2\.3/],
  "no date": [{ changelog: "## 1.2.3 - unreleased" }, /CHANGELOG/],
  "changes in the tree": [{ changes: " M x" }, /commit them/],
};
test("a tree that is all of one version is released, with a tag or without", () => {
  assert.deepEqual(releaseFaults(good), []);
  assert.deepEqual(releaseFaults({ ...good, tag: undefined }), []);
});
for (const [name, [change, fault]] of Object.entries(bad))
  test(`not released: ${name}`, () => {
    const faults = releaseFaults({ ...good, ...change });
    assert.equal(faults.length, 1);
    assert.match(faults[0] ?? "", fault);
  });

test("package.json, package-lock.json and the chart are of one version", () => {
  const chart = parse(read("charts/enodia/Chart.yaml"));
  const versions = [packageJson.version, JSON.parse(read("package-lock.json")).version, chart.version, chart.appVersion];
  assert.equal(new Set(versions).size, 1, versions.join(", "));
});

const workflows = globSync(".github/workflows/*.yaml", { cwd: root });
const jobsOf = (file: string): any[] => Object.values(parse(read(file)).jobs);

test("workflows run scripts of package.json, and parts of test files that are there, with the node of the images", () => {
  const steps: any[] = workflows.flatMap((file) => jobsOf(file).flatMap(({ steps = [] }) => steps));
  const commands = steps.flatMap(({ run }) => [...(run ?? "").matchAll(/npm run (\S+)(?: -- (.*))?/g)]);
  assert.ok(commands.length > 5);
  for (const [, script = "", parts] of commands) {
    assert.ok(script in packageJson.scripts, script);
    if (!/^test:(unit|int|e2e)$/.test(script) || parts === undefined) continue;
    for (const part of parts.split(" "))
      assert.ok(
        globSync("test/**/*.test.ts", { cwd: root }).some((file) => file.includes(part)),
        part,
      );
  }
  const nodes = new Set(steps.flatMap(({ uses, with: options }) => (/setup-node/.test(uses ?? "") ? [options["node-version"]] : [])));
  assert.equal(nodes.size, 1);
  const [node] = nodes;
  for (const { dockerfile, onRuntime } of images)
    if (!onRuntime || /^FROM node/m.test(read(dockerfile))) assert.match(read(dockerfile), new RegExp(`^FROM node:${node}-`, "m"));
});

test("a release may sign, and waits for the tests of a push and of a night", () => {
  const { permissions, jobs } = parse(read(".github/workflows/release.yaml"));
  assert.equal(permissions["id-token"], "write");
  assert.deepEqual(
    jobs.release.needs.map((name: string) => jobs[name].uses),
    ["./.github/workflows/push.yaml", "./.github/workflows/nightly.yaml"],
  );
});
