// The last release, which is the last tag v* below this commit. Compatibility is checked against it; without a tag there is nothing to keep.
import { spawnSync } from "node:child_process";
import { join } from "node:path";

const root = join(import.meta.dirname, "../..");

/** What git prints, or undefined where it fails: in a copy without history, say. */
function git(...argv: readonly string[]): string | undefined {
  const done = spawnSync("git", argv, { cwd: root, encoding: "latin1", maxBuffer: 64 * 1024 * 1024 });
  return done.status === 0 ? done.stdout : undefined;
}

export const lastTag = git("describe", "--tags", "--abbrev=0", "--match", "v*")?.trim();

/** The files of a folder as the last tag has them, by their path in the repository; none without a tag. */
export function filesAtLastTag(folder: string): Map<string, Buffer> {
  const names = lastTag === undefined ? "" : (git("ls-tree", "-r", "--name-only", lastTag, folder) ?? "");
  return new Map(
    names
      .split("\n")
      .filter((name) => name !== "")
      .map((name) => [name, Buffer.from(git("show", `${lastTag}:${name}`) ?? "", "latin1")]),
  );
}
