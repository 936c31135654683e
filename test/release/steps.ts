// A release as data: its images, the commands that build, pack, push, describe and sign them, and what has to be true before any of them
// runs. Pure; main.ts runs them. Images are named by digest from the first push on, in the packed chart too.
import { parseDocument } from "yaml";

export interface Image {
  /** Below REGISTRY/enodia/. */
  readonly name: "operator" | "runtime" | "training";
  readonly dockerfile: string;
  /** Behind the version in the tag. */
  readonly suffix: "" | "-cuda" | "-vulkan";
  readonly platforms: readonly string[];
  /** The key of the chart's values that names it by digest. */
  readonly value?: string;
  /** Built on the runtime image of this release. */
  readonly onRuntime?: boolean;
}

const both = ["linux/amd64", "linux/arm64"];

/** In the order in which they are built: runtime before those that are built on it. */
export const images: readonly Image[] = [
  { name: "operator", dockerfile: "operator/Dockerfile", suffix: "", platforms: both, value: "image" },
  { name: "runtime", dockerfile: "runtime/Dockerfile", suffix: "", platforms: both, value: "runtimeImage" },
  { name: "training", dockerfile: "runtime/Dockerfile.training", suffix: "", platforms: both, value: "trainingImage", onRuntime: true },
  // The libraries that these take are published for this processor alone.
  { name: "runtime", dockerfile: "runtime/Dockerfile.cuda", suffix: "-cuda", platforms: ["linux/amd64"], onRuntime: true },
  { name: "runtime", dockerfile: "runtime/Dockerfile.vulkan", suffix: "-vulkan", platforms: ["linux/amd64"], onRuntime: true },
];

export interface Place {
  /** Host and path that images and chart are pushed below. */
  readonly registry: string;
  readonly version: string;
  /** Folder for what is written. */
  readonly out: string;
}

const repositoryOf = (place: Place, image: Image): string => `${place.registry}/enodia/${image.name}`;
/** Where docker writes the digest of what it pushed. */
export const metadataFile = (place: Place, image: Image): string => `${place.out}/${image.name}${image.suffix}.json`;
const chartRepository = (place: Place): string => `${place.registry}/enodia/charts`;

/**
 * Builds an image for its platforms with provenance and an SBOM, and pushes it. The SBOM is docker's, of what lies in the image: that of
 * npm without development packages leaves out packages that a development package needs too.
 * `runtime` is the digest that some are built on.
 */
export function buildCommand(place: Place, image: Image, runtime: string): string[] {
  const base = `RUNTIME=${place.registry}/enodia/runtime@${runtime}`;
  return [
    ...["docker", "buildx", "build", "--platform", image.platforms.join(","), "--file", image.dockerfile],
    ...(image.onRuntime ? ["--build-arg", base] : []),
    ...["--tag", `${repositoryOf(place, image)}:${place.version}${image.suffix}`, "--sbom=true", "--provenance=mode=max"],
    ...["--metadata-file", metadataFile(place, image), "--push", "."],
  ];
}

/** Signs the image of every platform, and with each the SBOM and provenance that docker pushed beside it. */
export const signCommand = (place: Place, image: Image, digest: string): string[] => [
  ...["cosign", "sign", "--yes", "--recursive", `${repositoryOf(place, image)}@${digest}`],
];

export const packCommand = (place: Place, chart: string): string[] => ["helm", "package", chart, "--destination", place.out];
export const pushChartCommand = (place: Place): string[] => [
  ...["helm", "push", `${place.out}/enodia-${place.version}.tgz`, `oci://${chartRepository(place)}`],
];
export const signChartCommand = (place: Place, digest: string): string[] => [
  ...["cosign", "sign", "--yes", `${chartRepository(place)}/enodia@${digest}`],
];

/** values.yaml of the released chart: it names each image where it was pushed, by digest. Comments stay. */
export function pinnedValues(values: string, place: Place, digestOf: (image: Image) => string): string {
  const document = parseDocument(values);
  for (const image of images) {
    if (image.value === undefined) continue;
    document.setIn([image.value, "repository"], repositoryOf(place, image));
    document.setIn([image.value, "digest"], digestOf(image));
  }
  return document.toString({ lineWidth: 0 });
}

export interface Facts {
  /** Of package.json. */
  readonly version: string;
  readonly chart: { readonly version: string; readonly appVersion: string };
  readonly changelog: string;
  /** The tag that is released, where there is one. */
  readonly tag: string | undefined;
  /** What `git status --porcelain` prints. */
  readonly changes: string;
}

/** Why this tree is not to be released, each with its remedy; empty when it is. */
export function releaseFaults(facts: Facts): string[] {
  const { version, chart, changelog, tag } = facts;
  const faults: string[] = [];
  for (const [what, is] of [
    ["charts/enodia/Chart.yaml version", chart.version],
    ["charts/enodia/Chart.yaml appVersion", chart.appVersion],
  ])
    if (is !== version) faults.push(`${what} is ${is}, package.json has ${version}: make them one`);
  if (tag !== undefined && tag !== `v${version}`) faults.push(`the tag is ${tag}, package.json has ${version}: tag v${version}`);
  if (!new RegExp(`^## ${version.replaceAll(".", "\\.")} - \\d{4}-\\d{2}-\\d{2}$`, "m").test(changelog))
    faults.push(`CHANGELOG.md has no "## ${version} - <date>": say when it is released`);
  if (facts.changes !== "") faults.push("the tree has changes: commit them, or the images are not those of the tag");
  return faults;
}
