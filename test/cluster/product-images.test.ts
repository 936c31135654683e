// The released images are built from Dockerfiles, those of the local cluster by product-images.ts: both hold and run the same.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { gpuNames, librariesOf, packageVersion } from "../../runtime/compute/ggml/packages.ts";
import { keepFile, keepSource } from "./node-modules.ts";
import { imageConfigs, sourceFolders, trainingPackages, workerPackages } from "./product-images.ts";

const root = resolve(import.meta.dirname, "../..");
const read = (file: string): string => readFileSync(join(root, file), "utf8");
const images = ["operator", "runtime"] as const;

interface Instruction {
  readonly name: string;
  readonly text: string;
}

/** Stages of a Dockerfile, each with its FROM first. */
function stagesOf(image: string): Instruction[][] {
  const lines = read(`${image}/Dockerfile`)
    .replaceAll(/^\s*#.*\n/gm, "")
    .replaceAll("\\\n", " ")
    .split("\n");
  const instructions = lines
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .map((line) => ({ name: line.split(" ")[0] ?? "", text: line.slice(line.indexOf(" ") + 1) }));
  const starts = instructions.flatMap(({ name }, i) => (name === "FROM" ? [i] : []));
  return starts.map((start, n) => instructions.slice(start, starts[n + 1]));
}

/** The command that a container of the image runs, and its user. */
function configOf(stage: readonly Instruction[]) {
  const all = (name: string): string[] => stage.filter((each) => each.name === name).map(({ text }) => text);
  const env = all("ENV").flatMap((text) => text.split(/\s+/).map((pair) => pair.split(/=(.*)/s).slice(0, 2)));
  const list = (name: string): string[] => all(name).flatMap((text) => JSON.parse(text));
  return {
    entrypoint: list("ENTRYPOINT"),
    cmd: list("CMD"),
    user: all("USER").at(-1),
    workdir: all("WORKDIR").at(-1),
    env: Object.fromEntries(env),
  };
}

for (const image of images) {
  const stages = stagesOf(image);
  const last = stages.at(-1) ?? [];
  const copied = last.filter(({ name, text }) => name === "COPY" && !text.startsWith("--from")).map(({ text }) => text);

  test(`${image}: entry point, command, user, folder and environment are the same`, () => {
    const { PATH: _, ...env } = imageConfigs[image].env ?? {};
    assert.deepEqual(configOf(last), { ...imageConfigs[image], env });
    assert.ok(
      !last.some(({ name }) => ["EXPOSE", "VOLUME", "HEALTHCHECK", "STOPSIGNAL"].includes(name)),
      "the local image has none of these",
    );
  });

  test(`${image}: the same folders are copied`, () => {
    const wanted = [...sourceFolders.map((folder) => `${folder} ${folder}`), "package.json ./"];
    assert.deepEqual(copied.toSorted(), wanted.toSorted());
  });

  test(`${image}: the base image has the Node that bootstrap brings`, () => {
    const version = /nodeVersion = "([\d.]+)"/.exec(read("operator/cli/bootstrap.mjs"))?.[1];
    assert.equal(stages.length, 2);
    for (const [from] of stages) assert.match(from?.text ?? "", new RegExp(`^node:${version}-bookworm-slim( AS dependencies)?$`));
  });
}

test("native packages are the optional ones: the operator's image has none of them, that of workers none of training", () => {
  assert.deepEqual(Object.keys(JSON.parse(read("package.json")).optionalDependencies), [...workerPackages, ...trainingPackages]);
  const omits = images.map((image) => /--omit=optional/.test(read(`${image}/Dockerfile`)));
  assert.deepEqual(omits, [true, false]);
  for (const name of trainingPackages) assert.match(read("runtime/Dockerfile"), new RegExp(`rm -r .*node_modules/${name} `));
});

test("the training image is the runtime image and the library that trains, for this processor alone", () => {
  const text = read("runtime/Dockerfile.training");
  assert.match(text, /^FROM \$\{RUNTIME\}$/m);
  for (const name of trainingPackages) {
    assert.ok(text.includes(`/app/node_modules/${name} node_modules/${name}\n`), name);
    assert.deepEqual(
      ["bin/napi-v6/linux/x64/a.so", "bin/napi-v6/linux/arm64/a.so", "bin/napi-v6/darwin/arm64/a.dylib"].map((path) =>
        keepFile(name, path, "x64"),
      ),
      [true, false, false],
    );
  }
  assert.deepEqual(JSON.parse(/^CMD (.*)$/m.exec(text)?.[1] ?? ""), imageConfigs.training.cmd);
  assert.doesNotMatch(text, /^USER /m);
});

test("of the copied folders both leave out the same files", () => {
  const patterns = read(".dockerignore")
    .split("\n")
    .filter((line) => line !== "");
  const ignored = new Set(
    patterns.flatMap((pattern) => globSync([pattern, `${pattern}/**`], { cwd: root, exclude: ["node_modules", ".git"] })),
  );
  const files = sourceFolders.flatMap((folder) => globSync(`${folder}/**/*.*`, { cwd: root }));
  assert.ok(files.length > 300);
  assert.deepEqual(
    files.filter((file) => keepSource(file) === ignored.has(file)),
    [],
  );
});

test("the images for GPUs are the runtime image and one library, of the version that is loaded, and run as its user", () => {
  // Some are of machines on which no pod runs.
  const ofPods = gpuNames.flatMap((kind) =>
    librariesOf(kind, "linux", "x64")
      .slice(0, 1)
      .map((library) => ({ kind, library })),
  );
  assert.ok(ofPods.length >= 2);
  for (const { kind, library } of ofPods) {
    const text = read(`runtime/Dockerfile.${kind}`);
    assert.ok(text.includes(` ${library.package}@${packageVersion} `), `${kind}: ${library.package}@${packageVersion}`);
    assert.ok(text.includes(`! -name "${library.file}" -delete`), `${kind}: ${library.file}`);
    assert.match(text, /^FROM \$\{RUNTIME\}$/m);
    assert.equal([...text.matchAll(/^USER (.*)$/gm)].at(-1)?.[1] ?? imageConfigs.runtime.user, imageConfigs.runtime.user);
  }
  for (const [name, version] of Object.entries<string>(JSON.parse(read("package.json")).optionalDependencies)) {
    if (name.startsWith("@node-llama-cpp/")) assert.equal(version, packageVersion, name);
  }
});
